//! Trying again, without filling the log.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::time::sleep;
use tracing::{debug, warn};

use crate::util::backoff::Backoff;

/// Logs failures of one kind: the first as a warning, those that follow at level debug.
#[derive(Debug, Default)]
pub(crate) struct WarnOnce {
    warned: AtomicBool,
}

impl WarnOnce {
    /// Logs a failure, and `what` it means.
    pub fn log(&self, error: &dyn Display, what: &str) {
        if self.warned.swap(true, Ordering::Relaxed) {
            debug!(%error, "{what}");
        } else {
            warn!(%error, "{what}");
        }
    }

    /// The next failure is a warning again.
    pub fn reset(&self) {
        self.warned.store(false, Ordering::Relaxed);
    }
}

/// Calls `attempt` until it succeeds, with a back-off in between. `what` says in the log what a failure means.
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
