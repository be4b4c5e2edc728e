//! What the restart loop remembers between runs of a plugin: the kubelet, a possible late disconnect, suspensions of
//! the next registration, and failures. Callers pass random numbers.

use std::time::Duration;

use crate::fault::Suspension;
use crate::net::own_socket::BindError;
use crate::node::watcher::KubeletSocket;
use crate::plugin::record::Cause;
use crate::plugin::{RunEnd, Settle};
use crate::util::backoff::Backoff;
use crate::util::file_id::FileVersion;

/// A stream that was open for this long resets the back-off.
const LONG_STREAM: Duration = Duration::from_secs(60);

/// The pause while another plugin serves the socket.
const TAKEN_PAUSE: Duration = Duration::from_secs(2);

/// The state that the restart loop keeps between runs of a plugin.
#[derive(Debug, Default)]
pub(super) struct RunMemory {
    /// The identity of kubelet.sock at the last attempt.
    last_kubelet: KubeletSocket,
    late_disconnect: LateDisconnect,
    /// The last stream ended unexpectedly, and no kubelet has been reached since.
    lost_stream: bool,
    suspensions: Vec<Suspension>,
    /// Failures in a row since the back-off was last reset.
    failures: u32,
    backoff: Backoff,
    /// What the plugin waits for, according to the last log line.
    waiting_for: Option<&'static str>,
}

/// Which previous plugin of the resource the kubelet may still be disconnecting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum LateDisconnect {
    /// A plugin of another process, if the kubelet's checkpoint lists the resource. This is the state before the
    /// first run.
    #[default]
    Predecessor,
    None,
    /// The last run of this plugin, if kubelet.sock still has this identity.
    OwnRun(FileVersion),
    /// Another plugin that may have served the resource, whichever kubelet it used.
    AnotherPlugin,
}

impl RunMemory {
    /// Creates the memory of a plugin whose resource may just have been served by another plugin of this process.
    pub fn after_another_plugin() -> Self {
        Self {
            late_disconnect: LateDisconnect::AnotherPlugin,
            ..Self::default()
        }
    }

    /// Records that an attempt begins, with the current identity of kubelet.sock. A new identity resets the back-off.
    pub fn attempt_started(&mut self, socket: KubeletSocket) {
        if socket.is_some() && socket != self.last_kubelet {
            self.reset_backoff();
        }
        self.last_kubelet = socket;
    }

    /// Records that a kubelet was reached. Returns the cause of the restart if a stream was lost before.
    pub fn connected(&mut self, kubelet: FileVersion) -> Option<Cause> {
        self.attempt_started(Some(kubelet));
        let is_same = self.late_disconnect == LateDisconnect::OwnRun(kubelet);
        let cause = if is_same {
            Cause::Stream
        } else {
            Cause::Kubelet
        };
        std::mem::take(&mut self.lost_stream).then_some(cause)
    }

    /// Returns whether to settle before registering with the kubelet that was reached.
    pub fn settle(&self) -> Settle {
        match self.late_disconnect {
            LateDisconnect::Predecessor => Settle::IfListed,
            LateDisconnect::AnotherPlugin => Settle::Yes,
            LateDisconnect::OwnRun(kubelet) if self.last_kubelet == Some(kubelet) => Settle::Yes,
            LateDisconnect::OwnRun(_) | LateDisconnect::None => Settle::No,
        }
    }

    /// Returns the suspensions of the next registration.
    pub fn suspensions(&self) -> &[Suspension] {
        &self.suspensions
    }

    pub fn set_suspensions(&mut self, suspensions: Vec<Suspension>) {
        self.suspensions = suspensions;
    }

    /// Returns the identity of kubelet.sock at the last attempt.
    pub fn last_kubelet(&self) -> KubeletSocket {
        self.last_kubelet
    }

    /// Records how a run ended.
    pub fn ended(&mut self, end: &RunEnd) {
        self.late_disconnect = match end {
            RunEnd::Stopped(Some(stream))
            | RunEnd::StreamEnded(stream)
            | RunEnd::StreamDropped(stream)
            | RunEnd::Suspended(stream, _) => own_run(stream.kubelet),
            // Even after a failed registration the kubelet may know the plugin.
            RunEnd::NotRegistered(_) => own_run(self.last_kubelet),
            RunEnd::NotBound(BindError::Taken) | RunEnd::Panicked(_) => {
                LateDisconnect::AnotherPlugin
            }
            RunEnd::Stopped(None) | RunEnd::NoKubelet(_) | RunEnd::NotBound(_) => {
                self.late_disconnect
            }
        };
        match end {
            RunEnd::StreamEnded(_) => self.lost_stream = true,
            RunEnd::Suspended(_, suspensions) => self.set_suspensions(suspensions.clone()),
            _ => {}
        }
    }

    /// Counts a failure and returns the pause before the next run. `chance` is a random number from 0 to 1.
    pub fn pause(&mut self, end: &RunEnd, chance: f64) -> Duration {
        match end {
            RunEnd::Stopped(_) => {}
            RunEnd::StreamEnded(stream) if stream.open_for < LONG_STREAM => self.waiting_for = None,
            RunEnd::StreamEnded(_) | RunEnd::StreamDropped(_) | RunEnd::Suspended(..) => {
                self.reset_backoff();
                self.waiting_for = None;
            }
            _ => self.failures += 1,
        }
        match end {
            RunEnd::NotBound(BindError::Taken) => TAKEN_PAUSE,
            _ => self.backoff.pause(chance),
        }
    }

    /// Prepares a restart that has its own cause: resets the back-off, and forgets a lost stream so that it is not
    /// counted as a second restart.
    pub fn prepare_restart(&mut self) {
        self.reset_backoff();
        self.waiting_for = None;
        self.lost_stream = false;
    }

    fn reset_backoff(&mut self) {
        (self.failures, self.backoff) = (0, Backoff::default());
    }

    /// Returns how many attempts failed in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Returns whether this reason to wait differs from the last one and should be logged as a warning. `None` means
    /// that the failure is not a wait; it is always logged.
    pub fn is_new_reason(&mut self, waiting_for: Option<&'static str>) -> bool {
        let before = std::mem::replace(&mut self.waiting_for, waiting_for);
        waiting_for.is_none() || before != waiting_for
    }
}

fn own_run(kubelet: KubeletSocket) -> LateDisconnect {
    kubelet.map_or(LateDisconnect::None, LateDisconnect::OwnRun)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::registration::NoKubelet;
    use crate::plugin::{EndedStream, NotRegistered, StreamKubelet};
    use tokio::time::Instant;

    /// Returns two different identities of kubelet.sock.
    fn kubelet_sockets() -> [FileVersion; 2] {
        let dir = tempfile::tempdir().unwrap();
        ["a", "b"].map(|name| {
            let path = dir.path().join(name);
            std::os::unix::net::UnixListener::bind(&path).unwrap();
            FileVersion::of_socket(&path).unwrap().expect("a socket")
        })
    }

    fn stream_ended(open_for: Duration, kubelet: KubeletSocket) -> RunEnd {
        RunEnd::StreamEnded(EndedStream { open_for, kubelet })
    }

    fn socket_taken() -> RunEnd {
        RunEnd::NotBound(BindError::Taken)
    }

    /// Returns the memory of a plugin whose run with this kubelet ended this way.
    fn after(kubelet: FileVersion, end: &RunEnd) -> RunMemory {
        let mut memory = RunMemory::default();
        memory.connected(kubelet);
        memory.ended(end);
        memory
    }

    fn settles_with(mut memory: RunMemory, kubelet: FileVersion) -> Settle {
        memory.connected(kubelet);
        memory.settle()
    }

    #[test]
    fn the_first_run_settles_if_the_checkpoint_lists_the_resource() {
        let [one, _] = kubelet_sockets();
        assert_eq!(settles_with(RunMemory::default(), one), Settle::IfListed);
        assert_eq!(
            settles_with(RunMemory::after_another_plugin(), one),
            Settle::Yes
        );
        let without_kubelet = after(
            one,
            &RunEnd::NoKubelet(NoKubelet::Missing("kubelet.sock".into())),
        );
        assert_eq!(settles_with(without_kubelet, one), Settle::IfListed);
    }

    #[test]
    fn settles_with_any_kubelet_after_another_plugin_had_the_socket() {
        let [one, other] = kubelet_sockets();
        assert_eq!(
            settles_with(after(one, &socket_taken()), other),
            Settle::Yes
        );
    }

    #[test]
    fn settles_with_the_same_kubelet_after_a_failed_registration() {
        for end in [
            RunEnd::NotRegistered(NotRegistered::NoStream),
            RunEnd::NotRegistered(NotRegistered::NotCalledBack),
        ] {
            let [one, other] = kubelet_sockets();
            assert_eq!(settles_with(after(one, &end), one), Settle::Yes);
            assert_eq!(settles_with(after(one, &end), other), Settle::No);
        }
    }

    #[test]
    fn settles_with_any_kubelet_after_a_panic() {
        let [one, other] = kubelet_sockets();
        let panicked = RunEnd::Panicked("a bug".to_owned());
        assert_eq!(settles_with(after(one, &panicked), other), Settle::Yes);
    }

    #[test]
    fn does_not_settle_with_a_new_kubelet_but_does_after_kubelet_sock_was_relabeled() {
        let [one, other] = kubelet_sockets();
        let now = Instant::now();
        let mut stream = StreamKubelet::new(Some(one), now);
        let ended = |stream: &StreamKubelet, later| {
            let end = RunEnd::StreamEnded(stream.ended(now + Duration::from_millis(later)));
            after(one, &end)
        };
        assert_eq!(settles_with(ended(&stream, 0), one), Settle::Yes);
        stream.observe_socket(Some(other), now);
        assert_eq!(settles_with(ended(&stream, 500), other), Settle::No);
        assert_eq!(settles_with(ended(&stream, 1500), other), Settle::Yes);
    }

    #[test]
    fn counts_a_lost_stream_as_one_restart_at_the_next_connection() {
        let [one, other] = kubelet_sockets();
        let after_lost_stream = || after(one, &stream_ended(LONG_STREAM, Some(one)));
        assert_eq!(after_lost_stream().connected(one), Some(Cause::Stream));
        assert_eq!(after_lost_stream().connected(other), Some(Cause::Kubelet));
        let mut memory = after_lost_stream();
        memory.ended(&RunEnd::NoKubelet(NoKubelet::Missing(
            "kubelet.sock".into(),
        )));
        assert_eq!(memory.connected(other), Some(Cause::Kubelet));
        assert_eq!(memory.connected(other), None);
    }

    #[test]
    fn pauses_grow_until_a_long_stream_a_fault_or_a_new_kubelet() {
        let [one, other] = kubelet_sockets();
        let mut memory = RunMemory::default();
        memory.connected(one);
        let panicked = RunEnd::Panicked("a bug".to_owned());
        let pauses: Vec<Duration> = (0..4).map(|_| memory.pause(&panicked, 0.5)).collect();
        assert!(pauses.is_sorted() && pauses[0] < pauses[3], "{pauses:?}");
        assert_eq!(memory.failures(), 4);
        let long_stream = stream_ended(LONG_STREAM, Some(one));
        assert_eq!(memory.pause(&long_stream, 0.5), pauses[0]);
        assert_eq!(memory.failures(), 0);
        let stream = EndedStream {
            open_for: Duration::ZERO,
            kubelet: Some(one),
        };
        for _ in 0..9 {
            assert_eq!(memory.pause(&RunEnd::StreamDropped(stream), 0.5), pauses[0]);
        }
        assert_eq!(memory.pause(&panicked, 0.5), pauses[1]);
        memory.connected(other);
        assert_eq!(memory.pause(&panicked, 0.5), pauses[0]);
        assert_eq!(memory.pause(&socket_taken(), 0.5), TAKEN_PAUSE);
    }

    #[test]
    fn a_reason_to_wait_is_new_when_it_changes() {
        let mut memory = RunMemory::default();
        let waits = ["kubelet", "kubelet", "socket", "kubelet"].map(Some);
        let is_new = waits.map(|what| memory.is_new_reason(what));
        assert_eq!(is_new, [true, false, true, true]);
        assert!(memory.is_new_reason(None) && memory.is_new_reason(None));
        memory.is_new_reason(Some("kubelet"));
        memory.pause(&stream_ended(Duration::ZERO, None), 0.5);
        assert!(memory.is_new_reason(Some("kubelet")));
    }

    #[test]
    fn a_restart_clears_the_logged_reason_and_the_lost_stream() {
        let [one, _] = kubelet_sockets();
        let mut memory = after(one, &stream_ended(LONG_STREAM, Some(one)));
        memory.is_new_reason(Some("socket"));
        memory.pause(&socket_taken(), 0.5);
        memory.prepare_restart();
        assert_eq!(memory.failures(), 0);
        assert!(memory.is_new_reason(Some("socket")));
        assert_eq!(memory.connected(one), None);
        assert_eq!(memory.settle(), Settle::Yes);
    }

    #[test]
    fn settles_with_the_same_kubelet_after_a_stop() {
        let [one, other] = kubelet_sockets();
        let stream = EndedStream {
            open_for: Duration::ZERO,
            kubelet: Some(one),
        };
        for end in [
            RunEnd::Stopped(Some(stream)),
            RunEnd::Suspended(stream, Vec::new()),
        ] {
            assert_eq!(settles_with(after(one, &end), one), Settle::Yes);
            assert_eq!(settles_with(after(one, &end), other), Settle::No);
        }
        let never_bound = after(one, &RunEnd::Stopped(None));
        assert_eq!(settles_with(never_bound, one), Settle::IfListed);
    }
}
