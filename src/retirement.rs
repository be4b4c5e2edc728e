//! When a device that is going can be dropped from the list without harm to the kubelet.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::device::Devices;

/// What one resource's kubelet was told and asked. The time is an argument.
#[derive(Debug, Default)]
pub struct Retirement {
    /// When the open stream first told each device that is going as Unhealthy.
    told: BTreeMap<Box<str>, Instant>,
    /// Calls that may pick devices and are not answered yet.
    in_flight: usize,
    /// When the last of them was answered: the kubelet may still be booking what it picked.
    answered: Option<Instant>,
}

impl Retirement {
    /// A list went out on the stream.
    pub fn listed(&mut self, devices: &Devices, now: Instant) {
        let going = devices.as_slice().iter().filter(|device| device.going);
        let before = std::mem::take(&mut self.told);
        self.told = going
            .map(|device| {
                (
                    device.id.clone(),
                    before.get(&device.id).copied().unwrap_or(now),
                )
            })
            .collect();
    }

    /// The stream ended: the next one tells anew.
    pub fn stream_ended(&mut self) {
        self.told.clear();
    }

    /// Allocate or GetPreferredAllocation began.
    pub fn call_began(&mut self) {
        self.in_flight += 1;
    }

    /// It was answered, or given up.
    pub fn call_ended(&mut self, now: Instant) {
        self.in_flight -= 1;
        self.answered = Some(now);
    }

    /// The devices that can be dropped, unless a pod holds them: nothing is in flight, and the grace has
    /// passed since the last answer and since they were told as Unhealthy.
    pub fn ready(&self, grace: Duration, now: Instant) -> impl Iterator<Item = &str> {
        let passed = move |since: Instant| now.duration_since(since) >= grace;
        let quiet = self.in_flight == 0 && self.answered.is_none_or(passed);
        let told = self
            .told
            .iter()
            .filter(move |(_, since)| quiet && passed(**since));
        told.map(|(id, _)| &**id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;

    const GRACE: Duration = Duration::from_secs(30);

    fn going(ids: &[&str]) -> Devices {
        let device = |id: &&str| Device {
            going: true,
            ..Device::new(*id, 0, [].into())
        };
        let stays = Device::new("stays", 0, [].into());
        Devices::from_list(ids.iter().map(device).chain([stays]).collect())
    }

    fn ready(retirement: &Retirement, now: Instant) -> Vec<&str> {
        retirement.ready(GRACE, now).collect()
    }

    #[test]
    fn the_grace_counts_from_the_first_message_that_told_it() {
        let start = Instant::now();
        let mut retirement = Retirement::default();
        retirement.listed(&going(&["a"]), start);
        retirement.listed(&going(&["a", "b"]), start + GRACE / 2);
        assert!(ready(&retirement, start + GRACE / 2).is_empty());
        assert_eq!(ready(&retirement, start + GRACE), ["a"]);
        assert_eq!(ready(&retirement, start + GRACE * 2), ["a", "b"]);
        // It came back meanwhile.
        retirement.listed(&going(&["b"]), start + GRACE);
        assert_eq!(ready(&retirement, start + GRACE * 2), ["b"]);
        retirement.stream_ended();
        assert!(ready(&retirement, start + GRACE * 9).is_empty());
    }

    #[test]
    fn nothing_is_dropped_while_a_call_may_pick_it() {
        let start = Instant::now();
        let mut retirement = Retirement::default();
        retirement.listed(&going(&["a"]), start);
        retirement.call_began();
        retirement.call_began();
        retirement.call_ended(start + GRACE);
        assert!(ready(&retirement, start + GRACE * 3).is_empty());
        retirement.call_ended(start + GRACE * 3);
        assert!(ready(&retirement, start + GRACE * 3 + GRACE / 2).is_empty());
        assert_eq!(ready(&retirement, start + GRACE * 4), ["a"]);
    }
}
