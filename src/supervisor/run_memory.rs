//! What the restart loop remembers between runs of a plugin: the kubelet, a possible late disconnect, suspensions of
//! the next registration, and failures. Callers pass random numbers.

use std::time::Duration;

use crate::fault::Suspension;
use crate::net::own_socket::BindError;
use crate::node::watcher::KubeletSocket;
use crate::plugin::record::Cause;
use crate::plugin::{RunEnd, Settle, SettleTime};
use crate::util::backoff::Backoff;
use crate::util::file_id::FileVersion;

/// A stream that was open for this long resets the back-off.
const LONG_STREAM: Duration = Duration::from_secs(60);

/// The pause while another plugin serves the socket or the resource.
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
    /// Whether a pause was returned since the back-off was last reset.
    has_paused: bool,
    /// What the plugin waits for, according to the last log line.
    waiting_for: Option<&'static str>,
}

/// How to settle because of a previous plugin of the resource, which the kubelet may still be disconnecting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LateDisconnect {
    settle: Settle,
    /// The identity of the only kubelet.sock for which this holds, if the previous plugin was the last run of this one.
    /// `None` for any kubelet.
    kubelet: KubeletSocket,
}

impl Default for LateDisconnect {
    /// Before the first run, another process may have served the resource.
    fn default() -> Self {
        Self::with_any_kubelet(Settle::AfterProcess { if_unlisted: false })
    }
}

impl LateDisconnect {
    fn with_any_kubelet(settle: Settle) -> Self {
        Self {
            settle,
            kubelet: None,
        }
    }

    fn of_another_plugin() -> Self {
        Self::with_any_kubelet(Settle::AfterProcess { if_unlisted: true })
    }

    /// Returns how to settle after a run of this plugin. `kubelet` is `None` if the run registered with none.
    fn of_own_run(kubelet: KubeletSocket, listed_healthy: bool) -> Self {
        let time = match (kubelet, listed_healthy) {
            (None, _) => SettleTime::None,
            (Some(_), true) => SettleTime::UntilUnlisted,
            (Some(_), false) => SettleTime::Whole,
        };
        Self {
            settle: Settle::Known(time),
            kubelet,
        }
    }
}

impl RunMemory {
    /// Creates the memory of a plugin whose resource may just have been served by another plugin of this process.
    pub fn after_another_plugin() -> Self {
        Self {
            late_disconnect: LateDisconnect::of_another_plugin(),
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
        let is_same = self.late_disconnect.kubelet == Some(kubelet);
        let cause = if is_same {
            Cause::Stream
        } else {
            Cause::Kubelet
        };
        std::mem::take(&mut self.lost_stream).then_some(cause)
    }

    /// Returns how to settle before registering with the kubelet that was reached.
    pub fn settle(&self) -> Settle {
        let LateDisconnect { settle, kubelet } = self.late_disconnect;
        if kubelet.is_some() && kubelet != self.last_kubelet {
            return Settle::Known(SettleTime::None);
        }
        settle
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
            | RunEnd::Suspended(stream, _) => {
                LateDisconnect::of_own_run(stream.kubelet, stream.listed_healthy)
            }
            // Even after a failed registration the kubelet may know the plugin.
            RunEnd::NotRegistered(_) => LateDisconnect::of_own_run(self.last_kubelet, false),
            RunEnd::NotBound(BindError::Taken) => LateDisconnect::of_another_plugin(),
            RunEnd::Panicked(_) => {
                LateDisconnect::with_any_kubelet(Settle::Known(SettleTime::Whole))
            }
            RunEnd::Stopped(None)
            | RunEnd::NoKubelet(_)
            | RunEnd::NotBound(_)
            | RunEnd::ServedByAnother(_) => self.late_disconnect,
        };
        match end {
            RunEnd::StreamEnded(_) => self.lost_stream = true,
            RunEnd::Suspended(_, suspensions) => self.set_suspensions(suspensions.clone()),
            _ => {}
        }
    }

    /// Counts a failure and returns the pause before the next run. `chance` is a random number from 0 to 1. There is no
    /// pause after a stream that was open, unless there was a pause since the back-off was last reset.
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
        let is_first = !std::mem::replace(&mut self.has_paused, true);
        match end {
            RunEnd::NotBound(BindError::Taken) | RunEnd::ServedByAnother(_) => TAKEN_PAUSE,
            RunEnd::StreamEnded(_) | RunEnd::StreamDropped(_) | RunEnd::Suspended(..)
                if is_first =>
            {
                Duration::ZERO
            }
            _ => self.backoff.pause(chance),
        }
    }

    /// Prepares a restart that has its own cause: resets the back-off, and forgets a lost stream so that it is not
    /// counted as a second restart. If the kubelet did not list the resource, it will not show when it has disconnected
    /// the last run.
    pub fn prepare_restart(&mut self, cause: Cause) {
        let LateDisconnect { settle, kubelet } = &mut self.late_disconnect;
        if cause == Cause::Checkpoint && kubelet.is_some() {
            *settle = Settle::Known(SettleTime::Whole);
        }
        self.reset_backoff();
        self.waiting_for = None;
        self.lost_stream = false;
    }

    fn reset_backoff(&mut self) {
        (self.failures, self.backoff) = (0, Backoff::default());
        self.has_paused = false;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::registration::NoKubelet;
    use crate::plugin::{EndedStream, NotRegistered, ServedByAnother, StreamKubelet};
    use tokio::time::Instant;

    const NO: Settle = Settle::Known(SettleTime::None);
    const UNTIL_UNLISTED: Settle = Settle::Known(SettleTime::UntilUnlisted);
    const WHOLE_TIME: Settle = Settle::Known(SettleTime::Whole);
    const IF_LISTED: Settle = Settle::AfterProcess { if_unlisted: false };
    const AFTER_PROCESS: Settle = Settle::AfterProcess { if_unlisted: true };

    /// Returns two different identities of kubelet.sock.
    fn kubelet_sockets() -> [FileVersion; 2] {
        let dir = tempfile::tempdir().unwrap();
        ["a", "b"].map(|name| {
            let path = dir.path().join(name);
            std::os::unix::net::UnixListener::bind(&path).unwrap();
            FileVersion::of_socket(&path).unwrap().expect("a socket")
        })
    }

    fn stream(open_for: Duration, kubelet: KubeletSocket) -> EndedStream {
        EndedStream {
            open_for,
            kubelet,
            listed_healthy: true,
        }
    }

    fn stream_ended(open_for: Duration, kubelet: KubeletSocket) -> RunEnd {
        RunEnd::StreamEnded(stream(open_for, kubelet))
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
        assert_eq!(settles_with(RunMemory::default(), one), IF_LISTED);
        assert_eq!(
            settles_with(RunMemory::after_another_plugin(), one),
            AFTER_PROCESS
        );
        let without_kubelet = after(
            one,
            &RunEnd::NoKubelet(NoKubelet::Missing("kubelet.sock".into())),
        );
        assert_eq!(settles_with(without_kubelet, one), IF_LISTED);
    }

    #[test]
    fn settles_with_any_kubelet_after_another_plugin_had_the_socket() {
        let [one, other] = kubelet_sockets();
        assert_eq!(
            settles_with(after(one, &socket_taken()), other),
            AFTER_PROCESS
        );
    }

    #[test]
    fn settles_for_the_whole_time_with_the_same_kubelet_after_a_failed_registration() {
        for end in [
            RunEnd::NotRegistered(NotRegistered::NoStream),
            RunEnd::NotRegistered(NotRegistered::NotCalledBack),
        ] {
            let [one, other] = kubelet_sockets();
            assert_eq!(settles_with(after(one, &end), one), WHOLE_TIME);
            assert_eq!(settles_with(after(one, &end), other), NO);
        }
    }

    #[test]
    fn settles_for_the_whole_time_with_any_kubelet_after_a_panic() {
        let [one, other] = kubelet_sockets();
        let panicked = RunEnd::Panicked("a bug".to_owned());
        assert_eq!(settles_with(after(one, &panicked), other), WHOLE_TIME);
    }

    #[test]
    fn does_not_settle_with_a_new_kubelet_but_does_after_kubelet_sock_was_relabeled() {
        let [one, other] = kubelet_sockets();
        let now = Instant::now();
        let mut stream = StreamKubelet::new(Some(one), now);
        let ended = |stream: &StreamKubelet, later| {
            let end = stream.ended(Some(now), now + Duration::from_millis(later));
            let end = RunEnd::StreamEnded(end);
            after(one, &end)
        };
        assert_eq!(settles_with(ended(&stream, 1500), one), UNTIL_UNLISTED);
        stream.observe_socket(Some(other), now);
        assert_eq!(settles_with(ended(&stream, 500), other), NO);
        assert_eq!(settles_with(ended(&stream, 1500), other), UNTIL_UNLISTED);
    }

    /// Otherwise the kubelet may have no healthy device before it disconnects the plugin.
    #[test]
    fn settles_for_the_whole_time_unless_the_kubelet_has_had_healthy_devices_for_a_second() {
        let [one, _] = kubelet_sockets();
        let opened_at = Instant::now();
        let stream = StreamKubelet::new(Some(one), opened_at);
        let seconds = Duration::from_secs;
        let settles = |healthy_since: Option<Instant>, open_for| {
            let end = stream.ended(healthy_since, opened_at + open_for);
            settles_with(after(one, &RunEnd::StreamEnded(end)), one)
        };
        // Another client can have received the list before the kubelet opened its stream.
        let before = opened_at.checked_sub(seconds(5)).expect("a time");
        assert_eq!(settles(Some(before), seconds(1)), UNTIL_UNLISTED);
        assert_eq!(settles(Some(before), seconds(0)), WHOLE_TIME);
        let later = opened_at + seconds(9);
        assert_eq!(settles(Some(later), seconds(9)), WHOLE_TIME);
        assert_eq!(settles(Some(later), seconds(10)), UNTIL_UNLISTED);
        assert_eq!(settles(None, seconds(10)), WHOLE_TIME);
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
        assert_eq!(memory.pause(&long_stream, 0.5), Duration::ZERO);
        assert_eq!(memory.failures(), 0);
        let dropped = RunEnd::StreamDropped(stream(Duration::ZERO, Some(one)));
        for _ in 0..9 {
            assert_eq!(memory.pause(&dropped, 0.5), Duration::ZERO);
        }
        assert_eq!(memory.pause(&panicked, 0.5), pauses[0]);
        memory.connected(other);
        assert_eq!(memory.pause(&panicked, 0.5), pauses[0]);
        assert_eq!(memory.pause(&socket_taken(), 0.5), TAKEN_PAUSE);
    }

    #[test]
    fn only_the_first_of_several_short_streams_is_followed_by_an_immediate_retry() {
        let [one, other] = kubelet_sockets();
        let mut memory = RunMemory::default();
        memory.connected(one);
        let short_stream = stream_ended(Duration::ZERO, Some(one));
        let mut pauses = || -> Vec<u128> {
            let pauses = (0..4).map(|_| memory.pause(&short_stream, 0.5).as_millis());
            pauses.collect()
        };
        assert_eq!(pauses(), [0, 100, 200, 400]);
        memory.pause(&stream_ended(LONG_STREAM, Some(one)), 0.5);
        assert_eq!(memory.pause(&short_stream, 0.5).as_millis(), 100);
        // A failure before the stream.
        memory.connected(other);
        memory.pause(&RunEnd::NotRegistered(NotRegistered::NoStream), 0.5);
        assert_eq!(memory.pause(&short_stream, 0.5).as_millis(), 200);
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
        memory.prepare_restart(Cause::Configuration);
        assert_eq!(memory.failures(), 0);
        assert!(memory.is_new_reason(Some("socket")));
        assert_eq!(memory.connected(one), None);
        assert_eq!(memory.settle(), UNTIL_UNLISTED);
        memory.prepare_restart(Cause::Checkpoint);
        assert_eq!(memory.settle(), WHOLE_TIME);
    }

    #[test]
    fn settles_as_before_after_it_found_another_plugin_of_the_resource() {
        let [one, _] = kubelet_sockets();
        let mut memory = after(one, &stream_ended(LONG_STREAM, Some(one)));
        let another = RunEnd::ServedByAnother(ServedByAnother("x".to_owned()));
        memory.ended(&another);
        assert_eq!(memory.pause(&another, 0.5), TAKEN_PAUSE);
        assert_eq!(settles_with(memory, one), UNTIL_UNLISTED);
    }

    #[test]
    fn settles_with_the_same_kubelet_after_a_stop() {
        let [one, other] = kubelet_sockets();
        let stream = stream(Duration::ZERO, Some(one));
        for end in [
            RunEnd::Stopped(Some(stream)),
            RunEnd::Suspended(stream, Vec::new()),
        ] {
            assert_eq!(settles_with(after(one, &end), one), UNTIL_UNLISTED);
            assert_eq!(settles_with(after(one, &end), other), NO);
        }
        let never_bound = after(one, &RunEnd::Stopped(None));
        assert_eq!(settles_with(never_bound, one), IF_LISTED);
    }
}
