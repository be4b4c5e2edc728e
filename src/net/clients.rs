//! Serves the clients of HTTP and of the control socket, with limits on their number and on the time of each.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use crate::net::accept::Acceptor;

/// The longest time that a connection stays open, however slowly the client reads.
const CONNECTION_MAX: Duration = Duration::from_secs(30);

/// Whether a client has sent a request. Clients without a request are the first to be disconnected.
#[derive(Clone, Debug, Default)]
pub(crate) struct RequestSeen(Arc<AtomicBool>);

impl RequestSeen {
    /// Records that the client has sent a request.
    pub fn record(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_seen(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

struct Client {
    task: AbortHandle,
    request: RequestSeen,
}

/// Serves at most `limit` clients at a time. When all slots are taken, a new connection replaces the oldest client
/// that has sent no request or, if every client has sent one, the oldest client. Otherwise silent clients could
/// block the kubelet's probes, and the kubelet would restart the container.
pub async fn serve<C, F>(
    socket: &str,
    limit: usize,
    mut poll_accept: impl FnMut(&mut Context<'_>) -> Poll<io::Result<C>>,
    handle: impl Fn(C, RequestSeen) -> F,
) -> Infallible
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut acceptor = Acceptor::new(socket);
    let mut tasks = JoinSet::new();
    let mut clients: VecDeque<Client> = VecDeque::with_capacity(limit);
    loop {
        let connection = tokio::select! {
            connection = acceptor.accept(&mut poll_accept) => connection,
            Some(_) = tasks.join_next() => continue,
        };
        clients.retain(|client| !client.task.is_finished());
        if clients.len() >= limit {
            let silent = clients.iter().position(|client| !client.request.is_seen());
            if let Some(client) = clients.remove(silent.unwrap_or(0)) {
                client.task.abort();
            }
        }
        let request = RequestSeen::default();
        let handling = timeout(CONNECTION_MAX, handle(connection, request.clone()));
        let task = tasks.spawn(async { drop(handling.await) });
        clients.push_back(Client { task, request });
        // The new task runs once before the next connection can abort it.
        tokio::task::yield_now().await;
    }
}
