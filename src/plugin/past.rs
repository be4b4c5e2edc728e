//! What one run of a plugin leaves for the next: which kubelet it had, whether that one may still be taking leave, and
//! what suspends the next registration. The time is an argument.

use std::time::Duration;

use tokio::time::Instant;

use crate::fault::Suspension;
use crate::net::own_socket::Before;
use crate::node::watcher::Sight;
use crate::plugin::record::Cause;
use crate::util::file_id::FileVersion;

/// A kubelet takes its connections along when it dies, before its successor makes a socket. A stream
/// that outlives a change of kubelet.sock by this much has the same kubelet: the file was relabelled.
const SUCCESSION: Duration = Duration::from_secs(1);

/// What one run leaves for the next.
#[derive(Debug, Default)]
pub struct Past {
    /// The kubelet.sock of the last try.
    pub tried: Sight,
    leaving: Leaving,
    /// The stream of the last run ended by itself, and nobody was reached since.
    lost_stream: bool,
    /// What suspends the next registration.
    pub suspensions: Vec<Suspension>,
}

/// Whether to give the kubelet time before the registration, since it may be taking leave of somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quiet {
    /// There is nobody to take leave of.
    No,
    /// If its checkpoint lists the resource: a process before this one may have left a moment ago.
    IfListed,
    /// It may be.
    Yes,
}

/// Of whom the kubelet may be taking leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Leaving {
    /// In the first run of the process: of a predecessor, if the kubelet's checkpoint lists the resource.
    #[default]
    APredecessor,
    /// Of nobody.
    None,
    /// Of us, if it is still this one.
    Us(FileVersion),
    /// Of somebody else who had the socket.
    Another,
}

impl Past {
    /// A plugin that starts while the kubelet may be taking leave of one that served its resource before.
    pub fn of_a_successor() -> Self {
        Self {
            leaving: Leaving::Another,
            ..Self::default()
        }
    }

    /// Someone else has the socket.
    pub fn waits_for_another(&mut self) {
        self.leaving = Leaving::Another;
    }

    /// From here on the kubelet that was tried may know us, whatever becomes of the registration.
    pub fn registers(&mut self) {
        self.leaving = self.tried.map_or(Leaving::None, Leaving::Us);
    }

    /// The stream ended, or we end it.
    pub fn stream_ended(&mut self, under: &Succession, now: Instant) {
        self.leaving = under.kubelet(now).map_or(Leaving::None, Leaving::Us);
    }

    /// Nobody asked for that.
    pub fn lost_stream(&mut self) {
        self.lost_stream = true;
    }

    /// A kubelet was reached: why it had to be, where a stream was lost before.
    pub fn came_back(&mut self) -> Option<Cause> {
        let same = matches!(self.leaving, Leaving::Us(kubelet) if self.tried == Some(kubelet));
        let cause = if same { Cause::Stream } else { Cause::Kubelet };
        std::mem::take(&mut self.lost_stream).then_some(cause)
    }

    /// Whether the kubelet that is tried now may still be taking leave.
    pub fn needs_quiet(&self, before: Before) -> Quiet {
        match self.leaving {
            _ if before != Before::Nothing => Quiet::Yes,
            Leaving::APredecessor => Quiet::IfListed,
            Leaving::Another => Quiet::Yes,
            Leaving::Us(kubelet) if self.tried == Some(kubelet) => Quiet::Yes,
            Leaving::Us(_) | Leaving::None => Quiet::No,
        }
    }
}

/// Which kubelet.sock belongs to the kubelet that has a stream open.
pub struct Succession {
    sight: Sight,
    since: Instant,
    first: bool,
}

impl Succession {
    /// The stream was opened by the kubelet of this kubelet.sock.
    pub fn new(sight: Sight, now: Instant) -> Self {
        Self {
            sight,
            since: now,
            first: true,
        }
    }

    /// While the stream is open, this stands at kubelet.sock.
    pub fn saw(&mut self, sight: Sight, now: Instant) {
        if sight != self.sight {
            *self = Self {
                sight,
                since: now,
                first: false,
            };
        }
    }

    /// The kubelet.sock of the kubelet whose stream ends now; `None` when a new kubelet made it.
    fn kubelet(&self, now: Instant) -> Sight {
        let same = self.first || now.duration_since(self.since) > SUCCESSION;
        self.sight.filter(|_| same)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two kubelet.socks, one after the other.
    fn socks() -> [Sight; 2] {
        let dir = tempfile::tempdir().unwrap();
        ["a", "b"].map(|name| {
            let path = dir.path().join(name);
            std::os::unix::net::UnixListener::bind(&path).unwrap();
            FileVersion::of_socket(&path).unwrap()
        })
    }

    fn past(tried: Sight) -> Past {
        Past {
            tried,
            ..Past::default()
        }
    }

    #[test]
    fn a_first_run_is_quiet_after_a_stale_socket_or_where_the_kubelet_lists_the_resource() {
        let [one, _] = socks();
        assert_eq!(past(one).needs_quiet(Before::Nothing), Quiet::IfListed);
        assert_eq!(past(one).needs_quiet(Before::Stale), Quiet::Yes);
    }

    #[test]
    fn who_waited_for_another_is_quiet_under_any_kubelet() {
        let [one, other] = socks();
        let mut past = past(one);
        past.waits_for_another();
        past.tried = other;
        assert_eq!(past.needs_quiet(Before::Nothing), Quiet::Yes);
    }

    #[test]
    fn whatever_became_of_a_registration_the_same_kubelet_may_know_us() {
        let [one, other] = socks();
        let mut past = past(one);
        past.registers();
        assert_eq!(past.needs_quiet(Before::Nothing), Quiet::Yes);
        past.tried = other;
        assert_eq!(past.needs_quiet(Before::Nothing), Quiet::No);
    }

    #[test]
    fn a_new_kubelet_takes_no_leave_and_a_relabelled_socket_is_no_new_kubelet() {
        let [one, other] = socks();
        let now = Instant::now();
        let mut under = Succession::new(one, now);
        let mut past = past(one);
        past.stream_ended(&under, now);
        assert_eq!(past.needs_quiet(Before::Nothing), Quiet::Yes);

        under.saw(other, now);
        past.tried = other;
        past.stream_ended(&under, now + SUCCESSION / 2);
        assert_eq!(past.needs_quiet(Before::Nothing), Quiet::No);
        past.stream_ended(&under, now + SUCCESSION * 2);
        assert_eq!(past.needs_quiet(Before::Nothing), Quiet::Yes);
    }
}
