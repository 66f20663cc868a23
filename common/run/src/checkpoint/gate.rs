//! Memory that is being written to the disk is read by everyone and changed by no one.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Stands before whoever changes weights or moments: open, but while they are being written.
#[derive(Debug, Default)]
pub struct Gate(Arc<Readers>);

#[derive(Debug, Default)]
struct Readers {
    count: Mutex<usize>,
    none: Condvar,
}

/// Keeps a [`Gate`] shut until it is dropped, on whichever thread.
#[derive(Debug)]
pub struct Shut(Arc<Readers>);

impl Gate {
    /// Shuts it.
    pub fn shut(&self) -> Shut {
        *self.0.lock() += 1;
        Shut(self.0.clone())
    }

    /// Waits until it is open.
    pub fn wait(&self) {
        let mut count = self.0.lock();
        while *count > 0 {
            count = self.0.none.wait(count).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Readers {
    fn lock(&self) -> MutexGuard<'_, usize> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Shut {
    fn drop(&mut self) {
        *self.0.lock() -= 1;
        self.0.none.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn whoever_waits_goes_on_behind_the_last_reader_even_one_that_panics() {
        let (gate, read) = (Gate::default(), AtomicBool::new(false));
        gate.wait();
        let (first, second) = (gate.shut(), gate.shut());
        drop(first);
        thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let _shut = second;
                thread::sleep(Duration::from_millis(50));
                read.store(true, Ordering::SeqCst);
                std::panic::resume_unwind(Box::new(()));
            });
            gate.wait();
            assert!(read.load(Ordering::SeqCst));
            assert!(reader.join().is_err());
        });
    }
}
