//! The kubelet's stream of devices, and which kubelet has it open. The time is an argument.

use std::time::Duration;

use tokio::time::Instant;

use crate::fault::Suspension;
use crate::node::watcher::KubeletSocket;

/// A kubelet takes its connections along when it dies, before its successor makes a socket. A stream
/// that outlives a change of kubelet.sock by this much has the same kubelet: the file was relabelled.
const SAME_KUBELET_AFTER: Duration = Duration::from_secs(1);

/// A stream that was open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EndedStream {
    /// How long it was open.
    pub open_for: Duration,
    /// The kubelet.sock of the kubelet that had it open; `None` where a new kubelet has made the socket since.
    pub kubelet: KubeletSocket,
}

/// What ended a stream, other than a stop.
pub(super) enum StreamEnd {
    /// It ended by itself.
    Closed,
    /// A fault dropped it.
    Dropped,
    /// Faults suspend the registration.
    Suspended(Vec<Suspension>),
}

/// Which kubelet.sock belongs to the kubelet that has a stream open.
pub(crate) struct StreamKubelet {
    opened_at: Instant,
    socket: KubeletSocket,
    /// When another kubelet.sock appeared while the stream was open.
    changed_at: Option<Instant>,
}

impl StreamKubelet {
    /// The stream was opened by the kubelet of this kubelet.sock.
    pub fn new(socket: KubeletSocket, now: Instant) -> Self {
        Self {
            opened_at: now,
            socket,
            changed_at: None,
        }
    }

    /// While the stream is open, this stands at kubelet.sock.
    pub fn observe_socket(&mut self, socket: KubeletSocket, now: Instant) {
        if socket != self.socket {
            (self.socket, self.changed_at) = (socket, Some(now));
        }
    }

    /// The stream ends now.
    pub fn ended(&self, now: Instant) -> EndedStream {
        let is_same = |changed_at| now.duration_since(changed_at) > SAME_KUBELET_AFTER;
        EndedStream {
            open_for: now.duration_since(self.opened_at),
            kubelet: self.socket.filter(|_| self.changed_at.is_none_or(is_same)),
        }
    }
}
