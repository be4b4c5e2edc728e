//! What is remembered from one run of a plugin to the next: its kubelet, which plugin that one may still be
//! disconnecting, and what suspends the next registration. The time is an argument.

use std::time::Duration;

use tokio::time::Instant;

use crate::fault::Suspension;
use crate::net::own_socket::Before;
use crate::node::watcher::KubeletSocket;
use crate::plugin::record::Cause;
use crate::util::file_id::FileVersion;

/// A kubelet takes its connections along when it dies, before its successor makes a socket. A stream
/// that outlives a change of kubelet.sock by this much has the same kubelet: the file was relabelled.
const SAME_KUBELET_AFTER: Duration = Duration::from_secs(1);

/// What is remembered from one run to the next.
#[derive(Debug, Default)]
pub(crate) struct RunMemory {
    /// The kubelet.sock of the last try.
    pub tried: KubeletSocket,
    late_disconnect: LateDisconnect,
    /// The stream of the last run ended by itself, and nobody was reached since.
    lost_stream: bool,
    /// What suspends the next registration.
    pub(crate) suspensions: Vec<Suspension>,
}

/// Whether to wait before the registration, since the kubelet may still be disconnecting a predecessor. It handles the
/// end of a connection late, and by the resource's name: that would hit the new registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settle {
    /// There is no predecessor.
    No,
    /// Only if its checkpoint lists the resource: another process may have served it a moment ago.
    IfListed,
    /// There may be one.
    Yes,
}

/// Which plugin the kubelet may still be disconnecting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum LateDisconnect {
    /// That of another process, if the kubelet's checkpoint lists the resource: this is the first run of this one.
    #[default]
    APredecessor,
    None,
    /// Our own last run, if the kubelet is still this one.
    Us(FileVersion),
    /// Another plugin that had the socket or served the resource.
    Another,
}

impl RunMemory {
    /// For a plugin that starts a moment after another one of this process may have served its resource.
    pub(crate) fn of_a_successor() -> Self {
        Self {
            late_disconnect: LateDisconnect::Another,
            ..Self::default()
        }
    }

    /// Another process has the socket.
    pub(crate) fn waits_for_another(&mut self) {
        self.late_disconnect = LateDisconnect::Another;
    }

    /// From here on the kubelet that was tried may know us, whatever becomes of the registration.
    pub fn registers(&mut self) {
        self.late_disconnect = self.tried.map_or(LateDisconnect::None, LateDisconnect::Us);
    }

    /// The stream ended, or we end it.
    pub(crate) fn stream_ended(&mut self, under: &StreamKubelet, now: Instant) {
        self.late_disconnect = under
            .kubelet(now)
            .map_or(LateDisconnect::None, LateDisconnect::Us);
    }

    /// The stream ended, and no one here ended it.
    pub fn lost_stream(&mut self) {
        self.lost_stream = true;
    }

    /// A kubelet was reached. Returns the cause of the restart if a stream was lost before.
    pub(crate) fn came_back(&mut self) -> Option<Cause> {
        let same = matches!(self.late_disconnect, LateDisconnect::Us(kubelet) if self.tried == Some(kubelet));
        let cause = if same { Cause::Stream } else { Cause::Kubelet };
        std::mem::take(&mut self.lost_stream).then_some(cause)
    }

    /// Whether to wait before registering with the kubelet that was reached.
    pub fn settle(&self, before: Before) -> Settle {
        match self.late_disconnect {
            _ if before != Before::Nothing => Settle::Yes,
            LateDisconnect::APredecessor => Settle::IfListed,
            LateDisconnect::Another => Settle::Yes,
            LateDisconnect::Us(kubelet) if self.tried == Some(kubelet) => Settle::Yes,
            LateDisconnect::Us(_) | LateDisconnect::None => Settle::No,
        }
    }
}

/// Which kubelet.sock belongs to the kubelet that has a stream open.
pub(crate) struct StreamKubelet {
    socket: KubeletSocket,
    since: Instant,
    first: bool,
}

impl StreamKubelet {
    /// The stream was opened by the kubelet of this kubelet.sock.
    pub fn new(socket: KubeletSocket, now: Instant) -> Self {
        Self {
            socket,
            since: now,
            first: true,
        }
    }

    /// While the stream is open, this stands at kubelet.sock.
    pub fn saw(&mut self, socket: KubeletSocket, now: Instant) {
        if socket != self.socket {
            *self = Self {
                socket,
                since: now,
                first: false,
            };
        }
    }

    /// The kubelet.sock of the kubelet whose stream ends now; `None` when a new kubelet made it.
    fn kubelet(&self, now: Instant) -> KubeletSocket {
        let same = self.first || now.duration_since(self.since) > SAME_KUBELET_AFTER;
        self.socket.filter(|_| same)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two kubelet.socks, one after the other.
    fn socks() -> [KubeletSocket; 2] {
        let dir = tempfile::tempdir().unwrap();
        ["a", "b"].map(|name| {
            let path = dir.path().join(name);
            std::os::unix::net::UnixListener::bind(&path).unwrap();
            FileVersion::of_socket(&path).unwrap()
        })
    }

    fn memory(tried: KubeletSocket) -> RunMemory {
        RunMemory {
            tried,
            ..RunMemory::default()
        }
    }

    #[test]
    fn a_first_run_settles_after_a_stale_socket_or_where_the_kubelet_lists_the_resource() {
        let [one, _] = socks();
        assert_eq!(memory(one).settle(Before::Nothing), Settle::IfListed);
        assert_eq!(memory(one).settle(Before::Stale), Settle::Yes);
    }

    #[test]
    fn a_plugin_that_waited_for_another_settles_under_any_kubelet() {
        let [one, other] = socks();
        let mut memory = memory(one);
        memory.waits_for_another();
        memory.tried = other;
        assert_eq!(memory.settle(Before::Nothing), Settle::Yes);
    }

    #[test]
    fn whatever_became_of_a_registration_the_same_kubelet_may_know_us() {
        let [one, other] = socks();
        let mut memory = memory(one);
        memory.registers();
        assert_eq!(memory.settle(Before::Nothing), Settle::Yes);
        memory.tried = other;
        assert_eq!(memory.settle(Before::Nothing), Settle::No);
    }

    #[test]
    fn a_new_kubelet_disconnects_nobody_late_and_a_relabelled_socket_is_no_new_kubelet() {
        let [one, other] = socks();
        let now = Instant::now();
        let mut under = StreamKubelet::new(one, now);
        let mut memory = memory(one);
        memory.stream_ended(&under, now);
        assert_eq!(memory.settle(Before::Nothing), Settle::Yes);

        under.saw(other, now);
        memory.tried = other;
        memory.stream_ended(&under, now + SAME_KUBELET_AFTER / 2);
        assert_eq!(memory.settle(Before::Nothing), Settle::No);
        memory.stream_ended(&under, now + SAME_KUBELET_AFTER * 2);
        assert_eq!(memory.settle(Before::Nothing), Settle::Yes);
    }
}
