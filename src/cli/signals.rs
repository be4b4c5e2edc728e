//! Signals: SIGTERM and SIGINT stop the process, a second one aborts it, and SIGHUP reloads the config file.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use futures_util::StreamExt;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::low_level::signal_name;
use signal_hook_tokio::Signals;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::info;

/// Enough for the checkpoint, the config file, and the status and metrics responses in progress.
const BLOCKING_THREADS_MAX: usize = 8;

/// What the signals to this process request.
#[derive(Clone, Debug, Default)]
pub struct ProcessSignals {
    /// Canceled by the first SIGTERM or SIGINT.
    pub stop: CancellationToken,
    /// Notified by SIGHUP.
    pub hangup: Arc<Notify>,
}

/// Runs `work` on a single-threaded runtime. Signal handlers are installed before the work starts.
///
/// # Errors
/// Returns the error of the work, or an error if the runtime or the signal handlers cannot be set up.
pub fn until_signal<F>(work: impl FnOnce(ProcessSignals) -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Idle threads end soon, which frees the memory that they used for a large checkpoint or response.
        .thread_keep_alive(Duration::from_millis(100))
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .build()?;
    let result = runtime.block_on(async {
        abort_on_second_signal()?;
        let incoming = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
        let signals = ProcessSignals::default();
        let _handler = AbortOnDropHandle::new(tokio::spawn(follow(incoming, signals.clone())));
        work(signals).await
    });
    // Does not wait for blocking threads: a read from a hung disk may never return.
    runtime.shutdown_background();
    result
}

/// Makes the second signal end the process from within the signal handler, even if the runtime is blocked.
fn abort_on_second_signal() -> std::io::Result<()> {
    let signaled = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        // The handlers run in this order: the first signal finds the flag unset and sets it, and the second ends the
        // process.
        flag::register_conditional_default(signal, Arc::clone(&signaled))?;
        flag::register(signal, Arc::clone(&signaled))?;
    }
    Ok(())
}

async fn follow(mut incoming: Signals, signals: ProcessSignals) {
    while let Some(signal) = incoming.next().await {
        let name = signal_name(signal).unwrap_or("signal");
        if signal == SIGHUP {
            info!("received {name}");
            signals.hangup.notify_one();
        } else {
            info!("received {name}: stopping");
            signals.stop.cancel();
        }
    }
}
