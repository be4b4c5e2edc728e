//! Waiting for an event, with a deadline that fails the test.

use std::future::Future;
use std::time::Duration;

use tokio::time::timeout;

/// Far longer than any awaited event takes; a test that waits this long fails.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// The interval between checks of a state that sends no event when it changes, such as the kernel's tables.
pub const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Waits for an event, at most for [`DEADLINE`]. The failure names the caller and `what`.
#[track_caller]
pub fn within<F: Future>(what: &str, event: F) -> impl Future<Output = F::Output> {
    let at = std::panic::Location::caller();
    async move {
        let Ok(output) = timeout(DEADLINE, event).await else {
            panic!("{at}: waited {DEADLINE:?} for {what}");
        };
        output
    }
}

/// Waits until the condition is true, by checking it every [`POLL_INTERVAL`].
#[track_caller]
pub fn until(what: &str, is_true: impl Fn() -> bool) -> impl Future<Output = ()> {
    within(what, async move {
        while !is_true() {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    })
}
