//! A lock on tensors that another thread is writing to the disk: they may be read, but not changed.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Locked while weights and moments are being written. Whoever changes them waits first.
#[derive(Debug, Default)]
pub struct SnapshotLock(Arc<Readers>);

#[derive(Debug, Default)]
struct Readers {
    count: Mutex<usize>,
    none: Condvar,
}

/// Keeps a [`SnapshotLock`] locked until it is dropped, on any thread.
#[derive(Debug)]
pub struct SnapshotGuard(Arc<Readers>);

impl SnapshotLock {
    /// Locks it until the guard is dropped.
    pub fn lock(&self) -> SnapshotGuard {
        *self.0.lock() += 1;
        SnapshotGuard(self.0.clone())
    }

    /// Waits until no guard is left.
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

impl Drop for SnapshotGuard {
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
    fn waiting_ends_with_the_last_reader_even_one_that_panics() {
        let (lock, read) = (SnapshotLock::default(), AtomicBool::new(false));
        lock.wait();
        let (first, second) = (lock.lock(), lock.lock());
        drop(first);
        thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let _guard = second;
                thread::sleep(Duration::from_millis(50));
                read.store(true, Ordering::SeqCst);
                std::panic::resume_unwind(Box::new(()));
            });
            lock.wait();
            assert!(read.load(Ordering::SeqCst));
            assert!(reader.join().is_err());
        });
    }
}
