//! Tracks the connections to a Unix socket: limits their number, checks the peer's user, records RPCs, and can abort
//! every connection.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::{Stream, stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;
use tracing::warn;

use crate::net::accept::Acceptor;
use crate::net::user_namespace::{self, REMEDY};

/// Identifies a connection to one socket. IDs are assigned in ascending order and never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectionId(u64);

/// The RPCs that one peer has made.
#[derive(Debug, Default)]
pub struct Peer {
    /// Whether the peer has made any RPC.
    pub called: bool,
    pub(crate) asked_options: bool,
    pub(crate) streamed: bool,
    /// The number of open ListAndWatch streams.
    pub streams: usize,
    abort: CancellationToken,
}

/// The peers of one socket. Clones share the same table.
#[derive(Clone, Debug)]
pub struct Peers {
    /// The socket's file name, for log messages.
    endpoint: Arc<str>,
    table: watch::Sender<Table>,
    limit: usize,
    /// Whether to accept peers other than root and this process's user.
    any_user: bool,
    abort: CancellationToken,
}

/// The open connections of one socket.
#[derive(Debug, Default)]
pub struct Table {
    next: u64,
    /// Connections refused since a slot was last free.
    refused: u64,
    /// Whether a peer from outside this user namespace was refused. That peer is probably the kubelet.
    refused_outside: bool,
    open: BTreeMap<ConnectionId, Peer>,
}

impl Table {
    /// Returns the peer of a connection, or `None` if the connection is closed.
    pub fn get(&self, id: ConnectionId) -> Option<&Peer> {
        self.open.get(&id)
    }

    /// Returns the ID that the next connection will get.
    pub fn next(&self) -> ConnectionId {
        ConnectionId(self.next)
    }

    /// Returns whether a peer from outside this user namespace was refused.
    pub(crate) fn refused_outside(&self) -> bool {
        self.refused_outside
    }

    /// Returns the oldest open connection in `ids` whose peer matches.
    pub fn find(
        &self,
        ids: Range<ConnectionId>,
        matches: impl Fn(&Peer) -> bool,
    ) -> Option<ConnectionId> {
        let found = self.open.range(ids).find(|(_, peer)| matches(peer));
        found.map(|(id, _)| *id)
    }
}

impl Peers {
    /// Creates an empty table for at most `limit` open connections. Canceling `abort` aborts every connection.
    pub fn new(endpoint: &str, abort: CancellationToken, limit: usize) -> Self {
        Self {
            endpoint: endpoint.into(),
            table: watch::Sender::new(Table::default()),
            limit,
            any_user: false,
            abort,
        }
    }

    /// Accepts every user who can open the socket, as the kubelet does.
    #[must_use]
    pub fn allow_any_user(self) -> Self {
        Self {
            any_user: true,
            ..self
        }
    }

    /// Subscribes to changes of the table.
    pub fn subscribe(&self) -> watch::Receiver<Table> {
        self.table.subscribe()
    }

    /// Records an RPC on a connection. Only the first RPC of a connection wakes subscribers.
    pub(crate) fn note_call(&self, id: ConnectionId) {
        self.table.send_if_modified(|table| {
            let Some(peer) = table.open.get_mut(&id) else {
                return false;
            };
            let is_first = !peer.called;
            peer.called = true;
            is_first
        });
    }

    /// Changes the peer of a connection that has made an RPC, and wakes subscribers.
    pub fn note(&self, id: ConnectionId, change: impl FnOnce(&mut Peer)) {
        self.table.send_if_modified(|table| {
            let Some(peer) = table.open.get_mut(&id) else {
                return false;
            };
            peer.called = true;
            change(peer);
            true
        });
    }

    /// Aborts the connections whose peers have made no RPC.
    pub(crate) fn close_unused(&self) {
        let table = self.table.borrow();
        for peer in table.open.values().filter(|peer| !peer.called) {
            peer.abort.cancel();
        }
    }

    fn admit(&self) -> Option<Slot> {
        let mut admitted = None;
        self.table.send_if_modified(|table| {
            if table.open.len() < self.limit {
                let id = ConnectionId(table.next);
                let abort = self.abort.child_token();
                let peer = Peer {
                    abort: abort.clone(),
                    ..Peer::default()
                };
                table.next += 1;
                table.refused = 0;
                table.open.insert(id, peer);
                admitted = Some((id, abort));
            } else {
                table.refused += 1;
                if table.refused == 1 {
                    let (endpoint, limit) = (&self.endpoint, self.limit);
                    warn!(%endpoint, limit, "refusing new connections: the connection limit is reached");
                }
            }
            admitted.is_some()
        });
        let (id, abort) = admitted?;
        let peers = self.clone();
        Some(Slot { id, peers, abort })
    }
}

/// A slot in the table. Dropping the slot frees it.
#[derive(Debug)]
struct Slot {
    id: ConnectionId,
    peers: Peers,
    abort: CancellationToken,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.peers.table.send_modify(|table| {
            table.open.remove(&self.id);
        });
    }
}

/// Returns the stream of accepted connections. Connections are accepted on the newest listener.
pub fn incoming(
    listeners: watch::Receiver<Arc<UnixListener>>,
    peers: Peers,
) -> impl Stream<Item = io::Result<Connection>> {
    let acceptor = Acceptor::new(&peers.endpoint);
    let state = (listeners, acceptor, peers);
    stream::unfold(state, |(mut listeners, mut acceptor, peers)| async move {
        let connection = next_connection(&mut listeners, &mut acceptor, &peers).await?;
        Some((Ok(connection), (listeners, acceptor, peers)))
    })
}

/// Returns the next connection, or `None` once the sender of the listeners is dropped.
async fn next_connection(
    listeners: &mut watch::Receiver<Arc<UnixListener>>,
    acceptor: &mut Acceptor,
    peers: &Peers,
) -> Option<Connection> {
    loop {
        let listener = Arc::clone(&listeners.borrow_and_update());
        let (stream, _) = tokio::select! {
            changed = listeners.changed() => { changed.ok()?; continue }
            accepted = acceptor.accept(|cx| listener.poll_accept(cx)) => accepted,
        };
        if let Some(connection) = admit(stream, peers) {
            return Some(connection);
        }
    }
}

fn admit(stream: UnixStream, peers: &Peers) -> Option<Connection> {
    if !peers.any_user && !is_trusted(&stream, &peers.endpoint) {
        if stream
            .peer_cred()
            .is_ok_and(|peer| user_namespace::is_outside(peer.uid()))
        {
            peers
                .table
                .send_modify(|table| table.refused_outside = true);
        }
        return None;
    }
    let slot = peers.admit()?;
    let abort = Box::pin(slot.abort.clone().cancelled_owned());
    Some(Connection {
        stream,
        abort,
        slot,
    })
}

/// Returns whether the peer is root or this process's user. Logs a warning for any other user, in which `socket` names
/// the socket.
pub(crate) fn is_trusted(stream: &UnixStream, socket: &str) -> bool {
    let Ok(peer) = stream.peer_cred() else {
        return false;
    };
    let trusted = may_connect(peer.uid(), rustix::process::geteuid().as_raw());
    if !trusted {
        let uid = peer.uid();
        if user_namespace::is_outside(uid) {
            warn!(
                socket,
                uid,
                "refused a connection from outside this user namespace; if the peer is the kubelet, {REMEDY}"
            );
        } else {
            warn!(
                socket,
                uid, "refused a connection: only root and the daemon's own user may connect"
            );
        }
    }
    trusted
}

/// Root and this process's user can write to the device plugin directory anyway, so connecting gives them no new power.
const fn may_connect(uid: u32, own: u32) -> bool {
    uid == 0 || uid == own
}

/// A connection whose reads and writes fail once it is aborted. Without the abort, a peer that neither sends nor
/// reads could keep a server from stopping.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    abort: Pin<Box<WaitForCancellationFutureOwned>>,
    slot: Slot,
}

impl Connected for Connection {
    type ConnectInfo = ConnectionId;

    fn connect_info(&self) -> ConnectionId {
        self.slot.id
    }
}

impl Connection {
    /// Continues on `stream` and returns the previous stream, which leads to the peer.
    pub fn replace(&mut self, stream: UnixStream) -> UnixStream {
        std::mem::replace(&mut self.stream, stream)
    }

    /// Returns an error if the connection is aborted. Otherwise registers the task to be woken by an abort.
    fn poll_not_aborted(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(match self.abort.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(()),
        })
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_not_aborted(context))?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_not_aborted(context))?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_not_aborted(context))?;
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use futures_util::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[test]
    fn only_root_and_the_own_user_may_connect() {
        assert!(may_connect(0, 1000) && may_connect(1000, 1000));
        assert!(!may_connect(1001, 1000) && !may_connect(65534, 0));
    }

    #[tokio::test]
    async fn aborts_a_connection_whose_peer_neither_sends_nor_reads() {
        let abort = CancellationToken::new();
        let peers = Peers::new("a.sock", abort.clone(), 16);
        let (server, _client) = UnixStream::pair().unwrap();
        let (mut reading, mut writing) = tokio::io::split(admit(server, &peers).unwrap());
        let mut read = std::pin::pin!(reading.read_u8());
        let endless = vec![0; 1 << 20];
        let mut write = std::pin::pin!(writing.write_all(&endless));
        assert!((&mut read).now_or_never().is_none());
        assert!((&mut write).now_or_never().is_none());
        abort.cancel();
        let both = async { tokio::join!(read, write) };
        let (read, write) = tokio::time::timeout(Duration::from_secs(30), both)
            .await
            .unwrap();
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        assert_eq!(write.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    }

    #[tokio::test]
    async fn refuses_connections_above_the_limit_until_one_closes() {
        let peers = Peers::new("a.sock", CancellationToken::new(), 16);
        let (servers, _clients): (Vec<_>, Vec<_>) =
            (0..17).map(|_| UnixStream::pair().unwrap()).unzip();
        let mut servers = servers.into_iter();
        let mut open: Vec<_> = servers
            .by_ref()
            .take(16)
            .map(|s| admit(s, &peers))
            .collect();
        assert!(open.iter().all(Option::is_some));
        let another = || UnixStream::pair().unwrap().0;
        assert!(admit(another(), &peers).is_none());
        open.pop();
        assert!(admit(another(), &peers).is_some());
    }
}
