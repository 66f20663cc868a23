//! Work on the threads of libtorch's pool.
//!
//! These spin for some milliseconds after each of libtorch's operations. Other threads would share the cores
//! with them, and starting one takes longer than an operation of a fraction of a millisecond.

use std::any::Any;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Mutex, OnceLock, PoisonError, mpsc};
use std::thread::{self, JoinHandle};

/// Elements below which a second thread has less to do than it costs to call it.
const MIN_ELEMENTS_PER_THREAD: usize = 1 << 16;

/// Calls `work` with every item, on as many threads as libtorch uses, or fewer where there are few `elements`
/// to go through. Which thread takes which item is left open: a result must not depend on it.
pub(crate) fn parallel_for<T: Send>(items: Vec<T>, elements: usize, work: impl Fn(T) + Sync) {
    let threads = (tch::get_num_threads().max(1) as usize).min(elements / MIN_ELEMENTS_PER_THREAD).min(items.len());
    if threads <= 1 {
        items.into_iter().for_each(work);
        return;
    }
    let queue = Mutex::new(items.into_iter());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    parallel_region(threads, &|| {
        while let Some(item) = next() {
            work(item);
        }
    });
}

/// Starts a thread on which libtorch computes with this thread alone: it runs while a training step uses all
/// others.
pub fn spawn_single_threaded<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<JoinHandle<T>> {
    let threads = tch::get_num_threads();
    let (ready, is_ready) = mpsc::channel();
    let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
        tch::get_num_threads(); // the first call on a thread sets it to the common number, whatever was set before
        tch::set_num_threads(1);
        let _ = ready.send(());
        work()
    })?;
    // libtorch keeps a number for each thread, and one for new threads, which has changed, too.
    let _ = is_ready.recv();
    tch::set_num_threads(threads);
    Ok(thread)
}

/// Runs `body` on so many threads at once, this one among them.
fn parallel_region(threads: usize, body: &(dyn Fn() + Sync)) {
    let Some(parallel) = openmp() else {
        thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(body);
            }
            body();
        });
        return;
    };
    let region = Region { body, panic: Mutex::new(None) };
    let data: *const Region<'_> = &raw const region;
    #[expect(unsafe_code, reason = "the threads of OpenMP have no other interface")]
    // SAFETY: it calls `enter`, on every thread, with a region that lives until all have returned.
    unsafe {
        parallel(enter, data.cast_mut().cast(), threads as u32, 0);
    }
    let panic = region.panic.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(panic) = panic {
        resume_unwind(panic);
    }
}

struct Region<'a> {
    body: &'a (dyn Fn() + Sync),
    /// The first panic: none may cross into C.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

extern "C" fn enter(data: *mut c_void) {
    #[expect(unsafe_code, reason = "the threads of OpenMP have no other interface")]
    // SAFETY: `parallel_region` passes a region and waits for it; it is shared, never changed but through its
    // lock.
    let region = unsafe { &*data.cast_const().cast::<Region<'_>>() };
    if let Err(panic) = catch_unwind(AssertUnwindSafe(region.body)) {
        region.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
    }
}

/// `GOMP_parallel(fn, data, num_threads, flags)`: what compilers call for a parallel region.
type Parallel = unsafe extern "C" fn(extern "C" fn(*mut c_void), *mut c_void, u32, u32);

/// The OpenMP that libtorch was loaded with, if any.
fn openmp() -> Option<Parallel> {
    static FOUND: OnceLock<Option<Parallel>> = OnceLock::new();
    *FOUND.get_or_init(|| {
        #[cfg(unix)]
        {
            #[expect(unsafe_code, reason = "the threads of OpenMP have no other interface")]
            // SAFETY: a lookup of a name in the loaded libraries; GNU's and LLVM's OpenMP give it this
            // signature.
            unsafe {
                let found = libc::dlsym(libc::RTLD_DEFAULT, c"GOMP_parallel".as_ptr());
                (!found.is_null()).then(|| std::mem::transmute::<*mut c_void, Parallel>(found))
            }
        }
        #[cfg(not(unix))]
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_worked_on_once() {
        let mut counts = vec![0u32; 1000];
        for _ in 0..20 {
            parallel_for(counts.iter_mut().collect(), 1 << 30, |count| *count += 1);
        }
        assert_eq!(counts, vec![20; 1000]);
    }

    #[test]
    fn a_panic_arrives_where_it_was_called() {
        let result =
            catch_unwind(|| parallel_for((0..64).collect(), 1 << 30, |item| assert!(item != 40, "item {item}")));
        let message = *result.unwrap_err().downcast::<String>().unwrap();
        assert_eq!(message, "item 40");
        parallel_for((0..64).collect(), 1 << 30, |_| ()); // the threads are still there
    }

    #[test]
    fn a_thread_alone_leaves_this_one_its_helpers() {
        let threads = tch::get_num_threads();
        let alone = spawn_single_threaded("alone", tch::get_num_threads).unwrap().join().unwrap();
        assert_eq!((alone, tch::get_num_threads()), (1, threads));
    }

    #[test]
    fn libtorchs_own_threads_are_used_where_there_are_any() {
        assert!(openmp().is_some() || !cfg!(target_os = "linux"));
    }
}
