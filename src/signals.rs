//! SIGTERM and SIGINT stop, a second one aborts, SIGHUP never kills.

use std::io;

use futures_util::StreamExt;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level::{emulate_default_handler, signal_name};
use signal_hook_tokio::Signals;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

/// Turns the first signal to end into `stop`. Signals are ours until the handle is dropped.
///
/// # Errors
/// When the signals can't be had. Must be called within a tokio runtime.
pub fn stop_on_signal(stop: CancellationToken) -> io::Result<AbortOnDropHandle<()>> {
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    Ok(AbortOnDropHandle::new(tokio::spawn(follow(signals, stop))))
}

async fn follow(mut signals: Signals, stop: CancellationToken) {
    while let Some(signal) = signals.next().await {
        let name = signal_name(signal).unwrap_or("signal");
        if signal == SIGHUP {
            info!("{name}: there is no config file to read again");
        } else if stop.is_cancelled() {
            warn!("{name} again: aborting");
            // Ends the process as the signal would have without us.
            let _ = emulate_default_handler(signal);
        } else {
            info!("{name}: stopping");
            stop.cancel();
        }
    }
}
