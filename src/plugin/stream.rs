//! Which kubelet has the ListAndWatch stream open, and how the stream ended. Callers pass the time.

use std::time::Duration;

use tokio::time::Instant;

use crate::fault::Suspension;
use crate::node::watcher::KubeletSocket;

/// The connections of a stopped kubelet close before the next kubelet creates its socket. If a stream is still open
/// this long after kubelet.sock changed, the kubelet is the same, and only the file's metadata changed (chmod or
/// relabel).
const SAME_KUBELET_AFTER: Duration = Duration::from_secs(1);

/// If a list with a healthy device was sent at least this long before the stream ended, the kubelet received it.
const LIST_RECEIVED_WITHIN: Duration = Duration::from_secs(1);

/// A stream that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EndedStream {
    pub open_for: Duration,
    /// The identity of kubelet.sock, if the kubelet that had the stream open still serves it. `None` if a new kubelet
    /// may have created the socket since.
    pub kubelet: KubeletSocket,
    /// Whether the kubelet had a healthy device of this plugin when the stream ended.
    pub listed_healthy: bool,
}

/// Why a stream ended, other than by a stop.
pub(super) enum StreamEnd {
    /// The kubelet closed the stream or its connection, or the server failed.
    Closed,
    /// A stream fault was injected.
    Dropped,
    /// Registration faults were injected.
    Suspended(Vec<Suspension>),
}

/// Tracks which kubelet.sock belongs to the kubelet that has the stream open.
pub(crate) struct StreamKubelet {
    opened_at: Instant,
    socket: KubeletSocket,
    /// When the identity of kubelet.sock last changed while the stream was open.
    changed_at: Option<Instant>,
}

impl StreamKubelet {
    /// Creates the tracker when the kubelet of this socket opens the stream.
    pub fn new(socket: KubeletSocket, now: Instant) -> Self {
        Self {
            opened_at: now,
            socket,
            changed_at: None,
        }
    }

    /// Records the current identity of kubelet.sock while the stream is open.
    pub fn observe_socket(&mut self, socket: KubeletSocket, now: Instant) {
        if socket != self.socket {
            (self.socket, self.changed_at) = (socket, Some(now));
        }
    }

    /// Returns the description of the stream, which ends now. Since `healthy_since`, every list that was sent had a
    /// healthy device.
    pub fn ended(&self, healthy_since: Option<Instant>, now: Instant) -> EndedStream {
        let healthy_since = healthy_since.map(|since| since.max(self.opened_at));
        let is_received = |since| now.duration_since(since) >= LIST_RECEIVED_WITHIN;
        let is_same = |changed_at| now.duration_since(changed_at) > SAME_KUBELET_AFTER;
        EndedStream {
            open_for: now.duration_since(self.opened_at),
            kubelet: self.socket.filter(|_| self.changed_at.is_none_or(is_same)),
            listed_healthy: healthy_since.is_some_and(is_received),
        }
    }
}
