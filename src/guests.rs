//! Whoever connects to look at us: a bounded number, each for a bounded time, and none in the way of a plugin.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tracing::warn;

/// Out of descriptors, an accept fails at once, again and again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// However slowly a guest reads, it is gone by then.
const STAYS_AT_MOST: Duration = Duration::from_secs(30);

/// Serves guests, never more than `most` at a time. Where all places are taken the oldest has to go: those who
/// come to say nothing cannot keep out a probe, which would cost the program its life.
pub async fn receive<C, F, T>(
    what: &'static str,
    most: usize,
    mut accept: impl FnMut(&mut Context<'_>) -> Poll<io::Result<C>>,
    serve: impl Fn(C) -> F,
) -> T
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut guests = JoinSet::new();
    let mut places: VecDeque<AbortHandle> = VecDeque::with_capacity(most);
    let mut told = false;
    loop {
        let accepted = tokio::select! {
            accepted = poll_fn(&mut accept) => accepted,
            Some(_) = guests.join_next() => continue,
        };
        match accepted {
            Ok(connection) => {
                places.retain(|guest| !guest.is_finished());
                if places.len() >= most
                    && let Some(oldest) = places.pop_front()
                {
                    oldest.abort();
                }
                let stay = timeout(STAYS_AT_MOST, serve(connection));
                places.push_back(guests.spawn(async { drop(stay.await) }));
                // The new one speaks before the next may send it away.
                tokio::task::yield_now().await;
            }
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    warn!(%error, "cannot accept a connection to {what}: trying on");
                }
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
