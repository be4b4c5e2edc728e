//! SIGTERM and SIGINT stop, a second one aborts, SIGHUP asks for the config file to be read again.

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

/// One each for the checkpoint and the config file, and those who make answers.
const THREADS_ASIDE: usize = 8;

/// What the signals to this process request.
#[derive(Clone, Debug, Default)]
pub struct ProcessSignals {
    /// Is cancelled by the first signal to end.
    pub stop: CancellationToken,
    /// Is notified by SIGHUP.
    pub(crate) hangup: Arc<Notify>,
}

/// Runs the work on a runtime of one thread, with what signals ask for. They are taken before anything of the work is done.
///
/// # Errors
/// The work's, or that the runtime or the signals can't be had.
pub fn until_signal<F>(work: impl FnOnce(ProcessSignals) -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // A large checkpoint is read aside, and large answers are made; nothing of that stays.
        .thread_keep_alive(Duration::from_millis(100))
        .max_blocking_threads(THREADS_ASIDE)
        .build()?;
    let done = runtime.block_on(async {
        abort_at_the_second()?;
        let incoming = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
        let signals = ProcessSignals::default();
        let _following = AbortOnDropHandle::new(tokio::spawn(follow(incoming, signals.clone())));
        work(signals).await
    });
    // What is read aside may hang; it holds up nobody.
    runtime.shutdown_background();
    done
}

/// Within the signal's handler, so that it works whatever the runtime is stuck in.
fn abort_at_the_second() -> std::io::Result<()> {
    let first = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        // In this order: the first one passes and sets the flag, the next one finds it set.
        flag::register_conditional_default(signal, Arc::clone(&first))?;
        flag::register(signal, Arc::clone(&first))?;
    }
    Ok(())
}

async fn follow(mut incoming: Signals, signals: ProcessSignals) {
    while let Some(signal) = incoming.next().await {
        let name = signal_name(signal).unwrap_or("signal");
        if signal == SIGHUP {
            info!("{name}");
            signals.hangup.notify_one();
        } else {
            info!("{name}: stopping");
            signals.stop.cancel();
        }
    }
}
