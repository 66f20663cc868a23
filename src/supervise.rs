//! Signals: the first Ctrl-C (or SIGTERM) asks the run to write a checkpoint and stop; a second one exits
//! immediately.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};

/// Handles signals for a run.
pub(crate) struct Supervisor {
    /// Set by the first signal.
    pub(crate) interrupt: Arc<AtomicBool>,
    code: Arc<AtomicI32>,
    _runtime: tokio::runtime::Runtime,
}

impl Supervisor {
    /// Starts listening for signals.
    pub(crate) fn start() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .context("the signal handler cannot start")?;
        let (interrupt, code) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI32::new(0)));
        let (mut ctrl_c, mut terminate) = {
            let _entered = runtime.enter();
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
        };
        let (asked, exit_code) = (interrupt.clone(), code.clone());
        runtime.spawn(async move {
            loop {
                let received = tokio::select! {
                    _ = ctrl_c.recv() => 130,
                    _ = terminate.recv() => 143,
                };
                if asked.load(Ordering::SeqCst) {
                    std::process::exit(received);
                }
                // The exit code first: once the flag is set, the run may end at any time.
                exit_code.store(received, Ordering::SeqCst);
                asked.store(true, Ordering::SeqCst);
            }
        });
        Ok(Self { interrupt, code, _runtime: runtime })
    }

    /// 130 or 143 after a signal, otherwise 0.
    pub(crate) fn exit_code(&self) -> u8 {
        self.code.load(Ordering::SeqCst) as u8
    }
}
