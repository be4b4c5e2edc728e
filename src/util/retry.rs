//! Retries operations without flooding the log.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::time::sleep;
use tracing::{debug, warn};

use crate::util::backoff::Backoff;

/// Logs the first failure as a warning, and repeated failures at debug level.
#[derive(Debug, Default)]
pub(crate) struct WarnOnce {
    warned: AtomicBool,
}

impl WarnOnce {
    /// Logs a failure with the message `what`.
    pub fn log(&self, error: &dyn Display, what: &str) {
        if self.warned.swap(true, Ordering::Relaxed) {
            debug!(%error, "{what}");
        } else {
            warn!(%error, "{what}");
        }
    }

    /// Makes the next failure a warning again.
    pub fn reset(&self) {
        self.warned.store(false, Ordering::Relaxed);
    }
}

/// Calls `attempt` with backoff until it succeeds. `what` is the log message of a failure.
pub(crate) async fn until_ok<T, E: Display>(
    what: &str,
    mut attempt: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let mut backoff = Backoff::default();
    let failures = WarnOnce::default();
    loop {
        match attempt().await {
            Ok(done) => return done,
            Err(error) => failures.log(&error, what),
        }
        sleep(backoff.pause(fastrand::f64())).await;
    }
}
