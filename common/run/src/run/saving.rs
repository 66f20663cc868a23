//! Writes a checkpoint on a separate thread while training continues.

use std::panic::resume_unwind;
use std::thread::JoinHandle;

use align_core::error::{Error, Result};
use align_kernels::spawn_single_threaded;

/// A checkpoint that is being written by a thread.
#[derive(Debug)]
pub(super) struct Saving {
    step: u64,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Saving {
    /// Starts writing the checkpoint of `step`.
    pub(super) fn start(step: u64, write: impl FnOnce() -> Result<()> + Send + 'static) -> Result<Self> {
        let thread = spawn_single_threaded("checkpoint", write)
            .map_err(|error| Error::Failed(format!("no thread can be started to write a checkpoint: {error}")))?;
        Ok(Self { step, thread: Some(thread) })
    }

    /// Whether the thread has ended, successfully or not.
    pub(super) fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits until it has ended.
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
    /// Waits for the thread, so that the checkpoint is complete and the folder stays locked until then,
    /// whatever ends the run.
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
