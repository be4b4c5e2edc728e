//! Whoever connects to look at us: a bounded number, each for a bounded time, and none in the way of a plugin.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tracing::warn;

/// Out of descriptors, an accept fails at once, again and again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// However slowly a guest reads, it is gone by then.
const STAYS_AT_MOST: Duration = Duration::from_secs(30);

/// Who has asked for something; those who have not have to go first.
#[derive(Clone, Debug, Default)]
pub struct Asked(Arc<AtomicBool>);

impl Asked {
    /// The guest has asked.
    pub fn note(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_noted(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

struct Guest {
    task: AbortHandle,
    asked: Asked,
}

/// Serves guests, never more than `most` at a time. Where all places are taken, the oldest who has not asked has to
/// go, or the oldest of all: those who come to say nothing cannot keep out a probe, which would cost the program
/// its life.
pub async fn receive<C, F, T>(
    what: &'static str,
    most: usize,
    mut accept: impl FnMut(&mut Context<'_>) -> Poll<io::Result<C>>,
    serve: impl Fn(C, Asked) -> F,
) -> T
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    let mut guests: VecDeque<Guest> = VecDeque::with_capacity(most);
    let mut told = false;
    loop {
        let accepted = tokio::select! {
            accepted = poll_fn(&mut accept) => accepted,
            Some(_) = tasks.join_next() => continue,
        };
        match accepted {
            Ok(connection) => {
                guests.retain(|guest| !guest.task.is_finished());
                if guests.len() >= most {
                    let silent = guests.iter().position(|guest| !guest.asked.is_noted());
                    let gone = guests.remove(silent.unwrap_or(0));
                    gone.inspect(|gone| gone.task.abort());
                }
                let asked = Asked::default();
                let stay = timeout(STAYS_AT_MOST, serve(connection, asked.clone()));
                let task = tasks.spawn(async { drop(stay.await) });
                guests.push_back(Guest { task, asked });
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
