//! A checkpoint on its way to the disk, on a thread of its own, while training goes on.

use std::panic::resume_unwind;
use std::thread::JoinHandle;

use align_core::error::{Error, Result};
use align_kernels::spawn_single_threaded;

/// A thread that writes a checkpoint.
#[derive(Debug)]
pub(super) struct Saving {
    step: u64,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Saving {
    /// Starts to write the checkpoint of `step`.
    pub(super) fn start(step: u64, write: impl FnOnce() -> Result<()> + Send + 'static) -> Result<Self> {
        let thread = spawn_single_threaded("checkpoint", write)
            .map_err(|error| Error::Failed(format!("no thread can be started to write a checkpoint: {error}")))?;
        Ok(Self { step, thread: Some(thread) })
    }

    /// Whether it is done, one way or the other.
    pub(super) fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for its end.
    pub(super) fn finish(mut self) -> Result<()> {
        match self.thread.take().map(JoinHandle::join) {
            None | Some(Ok(Ok(()))) => Ok(()),
            Some(Ok(Err(error @ Error::Models { .. }))) => Err(error),
            Some(Ok(Err(source))) => Err(Error::Saving { step: self.step, source: Box::new(source) }),
            Some(Err(panic)) => resume_unwind(panic),
        }
    }
}

impl Drop for Saving {
    /// A run that ends for another reason leaves a whole checkpoint behind, too, and keeps the folder until then.
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
