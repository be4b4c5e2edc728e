//! When a device that is pending removal can be dropped from the list without harm to the kubelet.
//!
//! A kubelet crashes when a device leaves the list while a call that may pick it is in flight, or while a pod holds it
//! (`devicemanager/manager.go` and `topology_hints.go` look it up without asking whether it is there).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use crate::model::device::Devices;

/// What was reported to the kubelet about one resource, and what it asked. The time is an argument.
#[derive(Debug, Default)]
pub struct Removal {
    /// The devices pending removal that the open stream has reported, by ID.
    pending: BTreeMap<Box<str>, Pending>,
    /// Allocate and GetPreferredAllocation calls that are not answered yet, in the order of their arrival, with the pending
    /// devices that they name. There are few at a time: the kubelet makes one call after the other.
    in_flight: Vec<(CallId, Vec<Box<str>>)>,
    next_call: CallId,
    /// When the kubelet was last asked whether pods of the checkpoint are deleted.
    asked_pods: Option<Instant>,
}

/// Numbers the calls in the order of their arrival.
pub(crate) type CallId = u64;

#[derive(Debug)]
struct Pending {
    /// When the open stream first reported it as Unhealthy.
    reported: Instant,
    /// Calls with a lower number were there at that moment: the kubelet may have picked the device for them.
    first_call_after: CallId,
    /// When the last call that may have picked it was answered: the kubelet may still be booking what it picked.
    answered: Option<Instant>,
    holder: KnownHolder,
}

/// Whether a pod holds a device, by the kubelet's checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KnownHolder {
    /// The checkpoint cannot be read.
    Unknown,
    /// A pod, which may be deleted.
    Pod,
    Nobody,
}

/// What a device that is pending removal waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// The kubelet does not know yet that it is Unhealthy.
    Report,
    /// A call that may pick it.
    Call,
    /// The pod that holds it in the kubelet's checkpoint. Where that is deleted, the kubelet to forget it.
    Pod,
    /// The rest of the removal grace.
    Grace(Duration),
    /// Word of who holds it.
    Holders,
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Report => f.write_str("the kubelet to receive the health Unhealthy"),
            Self::Call => f.write_str("a call in flight that may pick devices"),
            Self::Pod => f.write_str("a pod, by the kubelet's checkpoint"),
            Self::Grace(rest) => {
                let seconds = rest.as_millis().div_ceil(1000);
                write!(f, "the removal grace, {seconds} s more")
            }
            Self::Holders => f.write_str("the kubelet's checkpoint, which is to be read again"),
        }
    }
}

impl Removal {
    /// A list was sent on the stream.
    pub fn list_sent(&mut self, devices: &Devices, now: Instant) {
        let mut previous = std::mem::take(&mut self.pending);
        let removing = devices.as_slice().iter().filter(|device| device.removing);
        self.pending = removing
            .map(|device| {
                let known = previous.remove(&device.id);
                let pending = known.unwrap_or(Pending {
                    reported: now,
                    first_call_after: self.next_call,
                    answered: None,
                    holder: KnownHolder::Unknown,
                });
                (device.id.clone(), pending)
            })
            .collect();
    }

    /// The stream ended: the next one reports anew, and what the kubelet said of pods was said by another life of it.
    pub(crate) fn stream_ended(&mut self) {
        self.pending.clear();
    }

    /// Allocate or GetPreferredAllocation began and names these devices.
    pub(crate) fn call_began<'a>(&mut self, ids: impl Iterator<Item = &'a str>) -> CallId {
        let named = if self.pending.is_empty() {
            Vec::new()
        } else {
            let pending = ids.filter_map(|id| self.pending.get_key_value(id));
            pending.map(|(id, _)| id.clone()).collect()
        };
        let call = self.next_call;
        self.next_call += 1;
        self.in_flight.push((call, named));
        call
    }

    /// It was answered, or given up.
    pub(crate) fn call_ended(&mut self, call: CallId, now: Instant) {
        let position = self
            .in_flight
            .binary_search_by_key(&call, |(call, _)| *call);
        let named =
            position.map_or_else(|_| Vec::new(), |position| self.in_flight.remove(position).1);
        for id in &named {
            if let Some(pending) = self.pending.get_mut(id) {
                pending.answered = Some(now);
            }
        }
        let began_before = |pending: &&mut Pending| call < pending.first_call_after;
        for pending in self.pending.values_mut().filter(began_before) {
            pending.answered = Some(now);
        }
    }

    /// Whether it is worth asking the kubelet who holds what.
    pub(crate) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// The checkpoint was read, from this moment on; `holds` says whether a pod holds the device in it.
    pub fn checkpoint_read(&mut self, began: Instant, holds: impl Fn(&str) -> bool) {
        for (id, pending) in &mut self.pending {
            // What was written before the report says nothing of a pod that got it until then.
            if began >= pending.reported {
                pending.holder = if holds(id) {
                    KnownHolder::Pod
                } else {
                    KnownHolder::Nobody
                };
            }
        }
    }

    /// The checkpoint could not be read.
    pub(crate) fn checkpoint_not_read(&mut self) {
        for pending in self.pending.values_mut() {
            pending.holder = KnownHolder::Unknown;
        }
    }

    /// The devices for which the checkpoint alone has a pod, so that it is worth finding out whether that is deleted; at most
    /// once in `every`, and not while a call is in flight: asked meanwhile, kubelets forget what they are allocating.
    pub(crate) fn held_by_checkpoint(
        &mut self,
        grace: Duration,
        every: Duration,
        now: Instant,
    ) -> Vec<Box<str>> {
        let asked_recently = self.asked_pods.is_some_and(|asked| now - asked < every);
        if asked_recently || !self.in_flight.is_empty() {
            return Vec::new();
        }
        let held = self.pending.iter().filter(|(_, pending)| {
            pending.holder == KnownHolder::Pod
                && now - pending.answered.unwrap_or(pending.reported) >= grace
        });
        let held: Vec<Box<str>> = held.map(|(id, _)| id.clone()).collect();
        if !held.is_empty() {
            self.asked_pods = Some(now);
        }
        held
    }

    /// The devices that can be dropped, if [`Removal::checkpoint_read`] was called just now.
    pub fn droppable(&self, grace: Duration, now: Instant) -> impl Iterator<Item = &str> {
        let named = self.named_in_flight();
        let droppable = self
            .pending
            .iter()
            .filter(move |(id, pending)| self.wait(id, pending, &named, grace, now).is_none());
        droppable.map(|(id, _)| &**id)
    }

    /// What each of these devices, which are pending removal, waits for; those that are about to be dropped wait for
    /// nothing.
    pub fn waits<'a>(
        &self,
        ids: impl Iterator<Item = &'a str>,
        grace: Duration,
        now: Instant,
    ) -> BTreeMap<&'a str, Wait> {
        let named = self.named_in_flight();
        let wait = |id: &'a str| {
            let wait = match self.pending.get(id) {
                Some(pending) => self.wait(id, pending, &named, grace, now)?,
                None => Wait::Report,
            };
            Some((id, wait))
        };
        ids.filter_map(wait).collect()
    }

    fn named_in_flight(&self) -> BTreeSet<&str> {
        let named = self.in_flight.iter().flat_map(|(_, named)| named);
        named.map(|id| &**id).collect()
    }

    fn wait(
        &self,
        id: &str,
        pending: &Pending,
        named: &BTreeSet<&str>,
        grace: Duration,
        now: Instant,
    ) -> Option<Wait> {
        let first_in_flight = self.in_flight.first();
        let began_before =
            first_in_flight.is_some_and(|(call, _)| *call < pending.first_call_after);
        if began_before || named.contains(id) {
            return Some(Wait::Call);
        }
        match pending.holder {
            KnownHolder::Unknown => return Some(Wait::Holders),
            KnownHolder::Pod => return Some(Wait::Pod),
            KnownHolder::Nobody => {}
        }
        let passed = now - pending.answered.unwrap_or(pending.reported);
        let rest = grace.saturating_sub(passed);
        (!rest.is_zero()).then_some(Wait::Grace(rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::device::Device;

    const GRACE: Duration = Duration::from_secs(30);

    fn removing(ids: &[&str]) -> Devices {
        let device = |id: &&str| Device {
            removing: true,
            ..Device::new(*id, 0, [].into())
        };
        let stays = Device::new("stays", 0, [].into());
        Devices::from_list(ids.iter().map(device).chain([stays]).collect())
    }

    /// With a checkpoint in which nobody holds anything.
    fn droppable(removal: &mut Removal, now: Instant) -> Vec<&str> {
        removal.checkpoint_read(now, |_| false);
        removal.droppable(GRACE, now).collect()
    }

    fn wait(removal: &Removal, id: &'static str, now: Instant) -> Option<Wait> {
        let waits = removal.waits([id].into_iter(), GRACE, now);
        waits.get(id).copied()
    }

    #[test]
    fn the_grace_counts_from_the_first_message_that_reported_it() {
        let start = Instant::now();
        let mut removal = Removal::default();
        assert_eq!(wait(&removal, "a", start), Some(Wait::Report));
        removal.list_sent(&removing(&["a"]), start);
        removal.list_sent(&removing(&["a", "b"]), start + GRACE / 2);
        assert!(droppable(&mut removal, start + GRACE / 2).is_empty());
        assert_eq!(
            wait(&removal, "a", start + GRACE / 2),
            Some(Wait::Grace(GRACE / 2))
        );
        assert_eq!(droppable(&mut removal, start + GRACE), ["a"]);
        assert_eq!(droppable(&mut removal, start + GRACE * 2), ["a", "b"]);
        assert_eq!(wait(&removal, "a", start + GRACE * 2), None);
        // It came back meanwhile.
        removal.list_sent(&removing(&["b"]), start + GRACE);
        assert_eq!(droppable(&mut removal, start + GRACE * 2), ["b"]);
        removal.stream_ended();
        assert!(droppable(&mut removal, start + GRACE * 9).is_empty());
    }

    #[test]
    fn a_call_that_was_in_flight_at_the_report_counts_whatever_it_names() {
        let start = Instant::now();
        let mut removal = Removal::default();
        let [first, second] = [(); 2].map(|()| removal.call_began(["stays"].into_iter()));
        removal.list_sent(&removing(&["a"]), start);
        removal.call_ended(first, start + GRACE);
        assert!(droppable(&mut removal, start + GRACE * 3).is_empty());
        assert_eq!(wait(&removal, "a", start + GRACE * 3), Some(Wait::Call));
        removal.call_ended(second, start + GRACE * 3);
        assert!(droppable(&mut removal, start + GRACE * 3 + GRACE / 2).is_empty());
        assert_eq!(droppable(&mut removal, start + GRACE * 4), ["a"]);
    }

    #[test]
    fn of_later_calls_those_that_name_it_count_and_no_others() {
        let start = Instant::now();
        let mut removal = Removal::default();
        removal.list_sent(&removing(&["a", "b"]), start);
        let names_a = removal.call_began(["stays", "a"].into_iter());
        let names_none = removal.call_began(["stays"].into_iter());
        assert_eq!(droppable(&mut removal, start + GRACE), ["b"]);
        removal.call_ended(names_a, start + GRACE);
        removal.call_ended(names_none, start + GRACE);
        assert_eq!(droppable(&mut removal, start + GRACE), ["b"]);
        assert_eq!(droppable(&mut removal, start + GRACE * 2), ["a", "b"]);
    }

    #[test]
    fn what_cannot_be_read_frees_nothing() {
        let start = Instant::now();
        let later = start + GRACE * 9;
        let mut removal = Removal::default();
        removal.list_sent(&removing(&["a"]), start + GRACE);
        assert_eq!(wait(&removal, "a", later), Some(Wait::Holders));
        removal.checkpoint_read(start, |_| false);
        assert_eq!(
            wait(&removal, "a", later),
            Some(Wait::Holders),
            "read before the report"
        );
        removal.checkpoint_read(later, |id| id == "a");
        assert_eq!(wait(&removal, "a", later), Some(Wait::Pod));
        removal.checkpoint_read(later, |_| false);
        assert_eq!(wait(&removal, "a", later), None);
        removal.checkpoint_not_read();
        assert_eq!(wait(&removal, "a", later), Some(Wait::Holders));
    }

    #[test]
    fn the_kubelet_is_asked_about_pods_of_the_checkpoint_once_in_a_while() {
        let start = Instant::now();
        let mut removal = Removal::default();
        removal.list_sent(&removing(&["a", "b"]), start);
        let asked = |removal: &mut Removal, at: Instant| {
            removal.held_by_checkpoint(GRACE, GRACE * 2, at).len()
        };
        removal.checkpoint_read(start + GRACE, |id| id == "a");
        assert_eq!(
            asked(&mut removal, start + GRACE / 2),
            0,
            "within the grace"
        );
        let call = removal.call_began(["stays"].into_iter());
        assert_eq!(
            asked(&mut removal, start + GRACE),
            0,
            "while a call is in flight"
        );
        removal.call_ended(call, start + GRACE);
        assert_eq!(asked(&mut removal, start + GRACE), 1);
        assert_eq!(asked(&mut removal, start + GRACE * 2), 0, "a moment later");
        assert_eq!(asked(&mut removal, start + GRACE * 3), 1);
    }
}
