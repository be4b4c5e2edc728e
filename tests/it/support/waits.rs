//! Waiting for an event, with a deadline that fails the test.

use std::future::Future;
use std::time::Duration;

use tokio::time::timeout;

/// Far longer than anything here takes: a test that waits this long has failed.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// The pause between two looks at something that sends no event when it changes, such as the kernel's tables.
pub const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Waits for the event, at most until the deadline.
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

/// Waits until the condition is true, by looking again and again.
#[track_caller]
pub fn until(what: &str, is_so: impl Fn() -> bool) -> impl Future<Output = ()> {
    within(what, async move {
        while !is_so() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    })
}
