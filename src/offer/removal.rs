//! Decides when a device pending removal can be removed from the list.
//!
//! The kubelet crashes if a device is removed while a call that may pick it is in flight, or while a pod holds it:
//! `devicemanager/manager.go` and `topology_hints.go` look the device up without checking that it exists.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use crate::model::device::Devices;

/// Tracks the devices of one resource that are pending removal, and the calls that may pick them.
#[derive(Debug, Default)]
pub struct Removal {
    /// The devices pending removal that the open stream advertised as Unhealthy, by ID.
    pending: BTreeMap<Box<str>, Pending>,
    /// The unanswered Allocate and GetPreferredAllocation calls in order of arrival, each with the pending devices that the
    /// request names. The list is short, because the kubelet makes one call at a time.
    in_flight: Vec<(CallId, Vec<Box<str>>)>,
    next_call: CallId,
    /// When [`Self::held_by_checkpoint`] last returned devices, after which the caller makes a List call.
    last_list_call: Option<Instant>,
}

/// The number of a call, in order of arrival.
pub(crate) type CallId = u64;

#[derive(Debug)]
struct Pending {
    /// When the open stream first advertised it as Unhealthy.
    advertised: Instant,
    /// The number of the first call after that list. The kubelet may have picked the device for any earlier call.
    first_call_after: CallId,
    /// When the last call that may have picked the device ended. The kubelet may still be recording what it picked.
    answered: Option<Instant>,
    holder: KnownHolder,
}

/// Whether a pod holds a device according to the kubelet's checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KnownHolder {
    /// The checkpoint was not read since that list, or the last read failed.
    Unknown,
    /// A pod. It may be deleted already: the checkpoint is updated late.
    Pod,
    Nobody,
}

/// What a device pending removal waits for. The text is shown as `waitsFor` in the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// No open stream has advertised the device as Unhealthy.
    Advertised,
    /// A call in flight may pick the device.
    Call,
    /// A pod holds the device in the kubelet's checkpoint.
    Pod,
    /// The rest of the removal grace period.
    Grace(Duration),
    /// The kubelet's checkpoint was not read since the device was advertised as Unhealthy, or the last read failed.
    Checkpoint,
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Advertised => {
                f.write_str("a device list to the kubelet that advertises the device as Unhealthy")
            }
            Self::Call => f.write_str("an Allocate or GetPreferredAllocation call in flight"),
            Self::Pod => f.write_str(
                "the deletion of a pod in the kubelet's checkpoint that holds the device",
            ),
            Self::Grace(rest) => {
                let seconds = rest.as_millis().div_ceil(1000);
                write!(f, "the removal grace period, {seconds}s left")
            }
            Self::Checkpoint => f.write_str("a successful read of the kubelet's checkpoint"),
        }
    }
}

impl Removal {
    /// Records that the stream sent this list.
    pub fn list_sent(&mut self, devices: &Devices, now: Instant) {
        let mut previous = std::mem::take(&mut self.pending);
        let removing = devices.as_slice().iter().filter(|device| device.removing);
        self.pending = removing
            .map(|device| {
                let known = previous.remove(&device.id);
                let pending = known.unwrap_or(Pending {
                    advertised: now,
                    first_call_after: self.next_call,
                    answered: None,
                    holder: KnownHolder::Unknown,
                });
                (device.id.clone(), pending)
            })
            .collect();
    }

    /// Forgets all lists when the stream ends: the next stream may belong to another kubelet process.
    pub(crate) fn stream_ended(&mut self) {
        self.pending.clear();
    }

    /// Records the start of an Allocate or GetPreferredAllocation call that names these devices.
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

    /// Records that a call was answered or canceled.
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

    /// Whether the open stream advertised any device pending removal. If not, there is no need to read the checkpoint.
    pub(crate) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Records a successful read of the checkpoint that began at `began`. `holds` returns whether a pod holds the device.
    pub fn checkpoint_read(&mut self, began: Instant, holds: impl Fn(&str) -> bool) {
        for (id, pending) in &mut self.pending {
            // An earlier read may miss a pod that got the device before the list.
            if began >= pending.advertised {
                pending.holder = if holds(id) {
                    KnownHolder::Pod
                } else {
                    KnownHolder::Nobody
                };
            }
        }
    }

    /// Records that the checkpoint could not be read.
    pub(crate) fn checkpoint_not_read(&mut self) {
        for pending in self.pending.values_mut() {
            pending.holder = KnownHolder::Unknown;
        }
    }

    /// Returns the devices that only wait for a pod in the checkpoint, which may be deleted already. The caller asks the
    /// kubelet's pod-resources API about them.
    ///
    /// Returns nothing if it returned devices less than `every` ago, or while a call is in flight, because a List call
    /// during an allocation makes the kubelet forget that allocation.
    pub(crate) fn held_by_checkpoint(
        &mut self,
        grace: Duration,
        every: Duration,
        now: Instant,
    ) -> Vec<Box<str>> {
        let asked_recently = self.last_list_call.is_some_and(|asked| now - asked < every);
        if asked_recently || !self.in_flight.is_empty() {
            return Vec::new();
        }
        let held = self.pending.iter().filter(|(_, pending)| {
            pending.holder == KnownHolder::Pod
                && now - pending.answered.unwrap_or(pending.advertised) >= grace
        });
        let held: Vec<Box<str>> = held.map(|(id, _)| id.clone()).collect();
        if !held.is_empty() {
            self.last_list_call = Some(now);
        }
        held
    }

    /// Returns the devices that can be removed. Call [`Removal::checkpoint_read`] immediately before.
    pub fn removable(&self, grace: Duration, now: Instant) -> impl Iterator<Item = &str> {
        let named = self.named_in_flight();
        let removable = self
            .pending
            .iter()
            .filter(move |(id, pending)| self.wait(id, pending, &named, grace, now).is_none());
        removable.map(|(id, _)| &**id)
    }

    /// Returns what each of these devices, all pending removal, waits for. Devices that can be removed are left out.
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
                None => Wait::Advertised,
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
            KnownHolder::Unknown => return Some(Wait::Checkpoint),
            KnownHolder::Pod => return Some(Wait::Pod),
            KnownHolder::Nobody => {}
        }
        let passed = now - pending.answered.unwrap_or(pending.advertised);
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
        let configured = Device::new("configured", 0, [].into());
        Devices::from_list(ids.iter().map(device).chain([configured]).collect())
    }

    /// Reads a checkpoint without pods first.
    fn removable(removal: &mut Removal, now: Instant) -> Vec<&str> {
        removal.checkpoint_read(now, |_| false);
        removal.removable(GRACE, now).collect()
    }

    fn wait(removal: &Removal, id: &'static str, now: Instant) -> Option<Wait> {
        let waits = removal.waits([id].into_iter(), GRACE, now);
        waits.get(id).copied()
    }

    #[test]
    fn the_grace_period_starts_with_the_first_list_that_has_the_device() {
        let start = Instant::now();
        let mut removal = Removal::default();
        assert_eq!(wait(&removal, "a", start), Some(Wait::Advertised));
        removal.list_sent(&removing(&["a"]), start);
        removal.list_sent(&removing(&["a", "b"]), start + GRACE / 2);
        assert!(removable(&mut removal, start + GRACE / 2).is_empty());
        assert_eq!(
            wait(&removal, "a", start + GRACE / 2),
            Some(Wait::Grace(GRACE / 2))
        );
        assert_eq!(removable(&mut removal, start + GRACE), ["a"]);
        assert_eq!(removable(&mut removal, start + GRACE * 2), ["a", "b"]);
        assert_eq!(wait(&removal, "a", start + GRACE * 2), None);
        // Device a is configured again.
        removal.list_sent(&removing(&["b"]), start + GRACE);
        assert_eq!(removable(&mut removal, start + GRACE * 2), ["b"]);
        removal.stream_ended();
        assert!(removable(&mut removal, start + GRACE * 9).is_empty());
    }

    #[test]
    fn a_call_in_flight_when_the_list_is_sent_blocks_every_device() {
        let start = Instant::now();
        let mut removal = Removal::default();
        let [first, second] = [(); 2].map(|()| removal.call_began(["configured"].into_iter()));
        removal.list_sent(&removing(&["a"]), start);
        removal.call_ended(first, start + GRACE);
        assert!(removable(&mut removal, start + GRACE * 3).is_empty());
        assert_eq!(wait(&removal, "a", start + GRACE * 3), Some(Wait::Call));
        removal.call_ended(second, start + GRACE * 3);
        assert!(removable(&mut removal, start + GRACE * 3 + GRACE / 2).is_empty());
        assert_eq!(removable(&mut removal, start + GRACE * 4), ["a"]);
    }

    #[test]
    fn a_call_after_the_list_blocks_only_the_devices_it_names() {
        let start = Instant::now();
        let mut removal = Removal::default();
        removal.list_sent(&removing(&["a", "b"]), start);
        let names_a = removal.call_began(["configured", "a"].into_iter());
        let names_none = removal.call_began(["configured"].into_iter());
        assert_eq!(removable(&mut removal, start + GRACE), ["b"]);
        removal.call_ended(names_a, start + GRACE);
        removal.call_ended(names_none, start + GRACE);
        assert_eq!(removable(&mut removal, start + GRACE), ["b"]);
        assert_eq!(removable(&mut removal, start + GRACE * 2), ["a", "b"]);
    }

    #[test]
    fn no_device_is_removed_without_a_checkpoint_read_after_the_list() {
        let start = Instant::now();
        let later = start + GRACE * 9;
        let mut removal = Removal::default();
        removal.list_sent(&removing(&["a"]), start + GRACE);
        assert_eq!(wait(&removal, "a", later), Some(Wait::Checkpoint));
        removal.checkpoint_read(start, |_| false);
        assert_eq!(
            wait(&removal, "a", later),
            Some(Wait::Checkpoint),
            "read before the list"
        );
        removal.checkpoint_read(later, |id| id == "a");
        assert_eq!(wait(&removal, "a", later), Some(Wait::Pod));
        removal.checkpoint_read(later, |_| false);
        assert_eq!(wait(&removal, "a", later), None);
        removal.checkpoint_not_read();
        assert_eq!(wait(&removal, "a", later), Some(Wait::Checkpoint));
    }

    #[test]
    fn devices_held_by_the_checkpoint_are_returned_at_most_once_per_interval() {
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
            "within the grace period"
        );
        let call = removal.call_began(["configured"].into_iter());
        assert_eq!(
            asked(&mut removal, start + GRACE),
            0,
            "while a call is in flight"
        );
        removal.call_ended(call, start + GRACE);
        assert_eq!(asked(&mut removal, start + GRACE), 1);
        assert_eq!(
            asked(&mut removal, start + GRACE * 2),
            0,
            "within the interval"
        );
        assert_eq!(asked(&mut removal, start + GRACE * 3), 1);
    }
}
