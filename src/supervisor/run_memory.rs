//! What the restart loop remembers from one run of a plugin to the next: its kubelet, which plugin that one may still be
//! disconnecting, what suspends the next registration, and the failures so far. Chance is an argument.

use std::time::Duration;

use crate::fault::Suspension;
use crate::net::own_socket::BindError;
use crate::node::watcher::KubeletSocket;
use crate::plugin::record::Cause;
use crate::plugin::{RunEnd, Settle};
use crate::util::backoff::Backoff;
use crate::util::file_id::FileVersion;

/// A stream that lived this long makes the next failure the first one.
const LONG_LIFE: Duration = Duration::from_secs(60);

/// While another plugin has the socket.
const TAKEN_PAUSE: Duration = Duration::from_secs(2);

/// What is remembered from one run to the next.
#[derive(Debug, Default)]
pub(super) struct RunMemory {
    /// The kubelet.sock of the last try.
    tried: KubeletSocket,
    late_disconnect: LateDisconnect,
    /// The stream of the last run ended by itself, and nobody was reached since.
    lost_stream: bool,
    suspensions: Vec<Suspension>,
    /// Since the last long life, fault, or new kubelet.
    failures: u32,
    backoff: Backoff,
    /// What the log last said that the plugin waits for.
    waiting_for: Option<&'static str>,
}

/// Which plugin the kubelet may still be disconnecting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum LateDisconnect {
    /// That of another process, if the kubelet's checkpoint lists the resource: this is the first run of this one.
    #[default]
    Predecessor,
    None,
    /// The last run of this plugin, if the kubelet is still this one.
    OwnRun(FileVersion),
    /// Another plugin that had the socket or served the resource.
    AnotherPlugin,
}

impl RunMemory {
    /// For a plugin that starts a moment after another one of this process may have served its resource.
    pub fn of_a_successor() -> Self {
        Self {
            late_disconnect: LateDisconnect::AnotherPlugin,
            ..Self::default()
        }
    }

    /// Another try begins, while this stands at kubelet.sock.
    pub fn tries(&mut self, socket: KubeletSocket) {
        if socket.is_some() && socket != self.tried {
            self.forget_failures();
        }
        self.tried = socket;
    }

    /// A kubelet was reached. Returns the cause of the restart if a stream was lost before.
    pub fn connected(&mut self, kubelet: FileVersion) -> Option<Cause> {
        self.tries(Some(kubelet));
        let is_same = self.late_disconnect == LateDisconnect::OwnRun(kubelet);
        let cause = if is_same {
            Cause::Stream
        } else {
            Cause::Kubelet
        };
        std::mem::take(&mut self.lost_stream).then_some(cause)
    }

    /// Whether to wait before registering with the kubelet that was reached.
    pub fn settle(&self) -> Settle {
        match self.late_disconnect {
            LateDisconnect::Predecessor => Settle::IfListed,
            LateDisconnect::AnotherPlugin => Settle::Yes,
            LateDisconnect::OwnRun(kubelet) if self.tried == Some(kubelet) => Settle::Yes,
            LateDisconnect::OwnRun(_) | LateDisconnect::None => Settle::No,
        }
    }

    /// What suspends the next registration.
    pub fn suspensions(&self) -> &[Suspension] {
        &self.suspensions
    }

    /// These suspend the next registration.
    pub fn suspended(&mut self, suspensions: Vec<Suspension>) {
        self.suspensions = suspensions;
    }

    /// The kubelet.sock of the last try.
    pub fn tried(&self) -> KubeletSocket {
        self.tried
    }

    /// A run ended.
    pub fn ended(&mut self, end: &RunEnd) {
        self.late_disconnect = match end {
            RunEnd::Stopped(Some(stream))
            | RunEnd::StreamEnded(stream)
            | RunEnd::StreamDropped(stream)
            | RunEnd::Suspended(stream, _) => own_run(stream.kubelet),
            // Whatever became of the registration, the kubelet may know the plugin.
            RunEnd::NotRegistered(_) => own_run(self.tried),
            RunEnd::NotBound(BindError::Taken) | RunEnd::Panicked(_) => {
                LateDisconnect::AnotherPlugin
            }
            RunEnd::Stopped(None) | RunEnd::NoKubelet(_) | RunEnd::NotBound(_) => {
                self.late_disconnect
            }
        };
        match end {
            RunEnd::StreamEnded(_) => self.lost_stream = true,
            RunEnd::Suspended(_, suspensions) => self.suspended(suspensions.clone()),
            _ => {}
        }
    }

    /// The pause after a run that ended so; `chance` is from 0 to 1.
    pub fn pause(&mut self, end: &RunEnd, chance: f64) -> Duration {
        match end {
            RunEnd::Stopped(_) => {}
            RunEnd::StreamEnded(stream) if stream.lived < LONG_LIFE => self.waiting_for = None,
            RunEnd::StreamEnded(_) | RunEnd::StreamDropped(_) | RunEnd::Suspended(..) => {
                self.forget_failures();
                self.waiting_for = None;
            }
            _ => self.failures += 1,
        }
        match end {
            RunEnd::NotBound(BindError::Taken) => TAKEN_PAUSE,
            _ => self.backoff.pause(chance),
        }
    }

    /// The plugin starts over with something else to register: what failed before counts no more, and a lost stream is
    /// part of this restart.
    pub fn starts_over(&mut self) {
        self.forget_failures();
        self.waiting_for = None;
        self.lost_stream = false;
    }

    /// What happened with an earlier kubelet counts no more.
    fn forget_failures(&mut self) {
        (self.failures, self.backoff) = (0, Backoff::default());
    }

    /// How many tries failed in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Whether the log has not said yet that the plugin waits for this. `None`: it waits for nothing in particular.
    pub fn is_news(&mut self, waiting_for: Option<&'static str>) -> bool {
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

    /// Two kubelet.socks, one after the other.
    fn socks() -> [FileVersion; 2] {
        let dir = tempfile::tempdir().unwrap();
        ["a", "b"].map(|name| {
            let path = dir.path().join(name);
            std::os::unix::net::UnixListener::bind(&path).unwrap();
            FileVersion::of_socket(&path).unwrap().expect("a socket")
        })
    }

    fn stream_ended(lived: Duration, kubelet: KubeletSocket) -> RunEnd {
        RunEnd::StreamEnded(EndedStream { lived, kubelet })
    }

    fn taken() -> RunEnd {
        RunEnd::NotBound(BindError::Taken)
    }

    /// Of a plugin whose run with this kubelet ended so.
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
    fn a_first_run_settles_where_the_kubelet_lists_the_resource() {
        let [one, _] = socks();
        assert_eq!(settles_with(RunMemory::default(), one), Settle::IfListed);
        assert_eq!(settles_with(RunMemory::of_a_successor(), one), Settle::Yes);
        let missed = after(one, &RunEnd::NoKubelet(NoKubelet::Missing));
        assert_eq!(settles_with(missed, one), Settle::IfListed);
    }

    #[test]
    fn a_plugin_that_waited_for_another_settles_with_any_kubelet() {
        let [one, other] = socks();
        assert_eq!(settles_with(after(one, &taken()), other), Settle::Yes);
    }

    #[test]
    fn after_any_registration_the_same_kubelet_may_know_the_plugin() {
        for end in [
            RunEnd::NotRegistered(NotRegistered::NoStream),
            RunEnd::NotRegistered(NotRegistered::NotCalledBack),
        ] {
            let [one, other] = socks();
            assert_eq!(settles_with(after(one, &end), one), Settle::Yes);
            assert_eq!(settles_with(after(one, &end), other), Settle::No);
        }
    }

    #[test]
    fn after_a_panic_anything_may_be_open() {
        let [one, other] = socks();
        let panicked = RunEnd::Panicked("a bug".to_owned());
        assert_eq!(settles_with(after(one, &panicked), other), Settle::Yes);
    }

    #[test]
    fn a_new_kubelet_disconnects_nobody_late_and_a_relabelled_socket_is_no_new_kubelet() {
        let [one, other] = socks();
        let now = Instant::now();
        let mut stream = StreamKubelet::new(Some(one), now);
        let ended = |stream: &StreamKubelet, later| {
            let end = RunEnd::StreamEnded(stream.ended(now + Duration::from_millis(later)));
            after(one, &end)
        };
        assert_eq!(settles_with(ended(&stream, 0), one), Settle::Yes);
        stream.saw(Some(other), now);
        assert_eq!(settles_with(ended(&stream, 500), other), Settle::No);
        assert_eq!(settles_with(ended(&stream, 1500), other), Settle::Yes);
    }

    #[test]
    fn a_lost_stream_is_a_restart_once_its_cause_is_known() {
        let [one, other] = socks();
        let lost = || after(one, &stream_ended(LONG_LIFE, Some(one)));
        assert_eq!(lost().connected(one), Some(Cause::Stream));
        assert_eq!(lost().connected(other), Some(Cause::Kubelet));
        let mut memory = lost();
        memory.ended(&RunEnd::NoKubelet(NoKubelet::Missing));
        assert_eq!(memory.connected(other), Some(Cause::Kubelet));
        assert_eq!(memory.connected(other), None);
    }

    #[test]
    fn pauses_grow_until_a_long_life_a_fault_or_a_new_kubelet() {
        let [one, other] = socks();
        let mut memory = RunMemory::default();
        memory.connected(one);
        let panicked = RunEnd::Panicked("a bug".to_owned());
        let pauses: Vec<Duration> = (0..4).map(|_| memory.pause(&panicked, 0.5)).collect();
        assert!(pauses.is_sorted() && pauses[0] < pauses[3], "{pauses:?}");
        assert_eq!(memory.failures(), 4);
        let long = stream_ended(LONG_LIFE, Some(one));
        assert_eq!(memory.pause(&long, 0.5), pauses[0]);
        assert_eq!(memory.failures(), 0);
        let stream = EndedStream {
            lived: Duration::ZERO,
            kubelet: Some(one),
        };
        for _ in 0..9 {
            assert_eq!(memory.pause(&RunEnd::StreamDropped(stream), 0.5), pauses[0]);
        }
        assert_eq!(memory.pause(&panicked, 0.5), pauses[1]);
        memory.connected(other);
        assert_eq!(memory.pause(&panicked, 0.5), pauses[0]);
        assert_eq!(memory.pause(&taken(), 0.5), TAKEN_PAUSE);
    }

    #[test]
    fn what_the_plugin_waits_for_is_news_when_it_changes() {
        let mut memory = RunMemory::default();
        let waits = ["kubelet", "kubelet", "socket", "kubelet"].map(Some);
        let news = waits.map(|what| memory.is_news(what));
        assert_eq!(news, [true, false, true, true]);
        assert!(memory.is_news(None) && memory.is_news(None));
        memory.is_news(Some("kubelet"));
        memory.pause(&stream_ended(Duration::ZERO, None), 0.5);
        assert!(memory.is_news(Some("kubelet")));
    }

    #[test]
    fn with_something_else_to_register_everything_is_news_and_no_stream_is_lost() {
        let [one, _] = socks();
        let mut memory = after(one, &stream_ended(LONG_LIFE, Some(one)));
        memory.is_news(Some("socket"));
        memory.pause(&taken(), 0.5);
        memory.starts_over();
        assert_eq!(memory.failures(), 0);
        assert!(memory.is_news(Some("socket")));
        assert_eq!(memory.connected(one), None);
        assert_eq!(memory.settle(), Settle::Yes);
    }

    #[test]
    fn a_stop_leaves_what_is_known_of_the_kubelet() {
        let [one, other] = socks();
        let stream = EndedStream {
            lived: Duration::ZERO,
            kubelet: Some(one),
        };
        for end in [
            RunEnd::Stopped(Some(stream)),
            RunEnd::Suspended(stream, Vec::new()),
        ] {
            assert_eq!(settles_with(after(one, &end), one), Settle::Yes);
            assert_eq!(settles_with(after(one, &end), other), Settle::No);
        }
        let unstarted = after(one, &RunEnd::Stopped(None));
        assert_eq!(settles_with(unstarted, one), Settle::IfListed);
    }
}
