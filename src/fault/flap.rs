//! Runs the `health` faults, which make devices Unhealthy and Healthy again, repeatedly.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crate::model::device::{Device, Devices};
use crate::model::selection::select_present;

use super::{FaultId, FaultKind, Faults};

/// The current phase of each `health` fault of one resource.
#[derive(Debug, Default)]
pub struct Flaps(BTreeMap<FaultId, Phase>);

#[derive(Debug)]
struct Phase {
    /// The devices that the fault keeps Unhealthy. `None`: the devices are Healthy in this phase.
    unhealthy: Option<Vec<Box<str>>>,
    /// When the phase ends.
    until: Instant,
}

impl Flaps {
    /// Starts the phases that are due. A fault is not injected if its devices are all missing or Unhealthy already.
    ///
    /// Returns the number of devices that became Unhealthy, for each fault that was injected.
    pub fn advance(&mut self, faults: &mut Faults, now: Instant, devices: &Devices) -> Vec<usize> {
        self.0.retain(|id, _| faults.has(*id));
        let flapping = faults.armed().iter();
        let flapping = flapping.filter_map(|armed| match &armed.fault.on {
            FaultKind::Health(flap) => Some((armed.id, flap.clone(), armed.is_exhausted())),
            _ => None,
        });
        let mut injected = Vec::new();
        for (id, flap, is_exhausted) in flapping.collect::<Vec<_>>() {
            let is_unhealthy = |phase: &Phase| phase.unhealthy.is_some();
            if is_exhausted && !self.0.get(&id).is_some_and(is_unhealthy) {
                // An exhausted fault has no further phase.
                self.0.remove(&id);
                continue;
            }
            let phase = self.0.entry(id).or_insert_with(|| Phase {
                unhealthy: None,
                until: now + flap.up,
            });
            if phase.until > now {
                continue;
            }
            phase.until = now + flap.up;
            if phase.unhealthy.take().is_some() {
                continue;
            }
            let selected = select_present(devices, &flap.devices).filter(|device| !device.removing);
            let selected: Vec<&Device> = selected.collect();
            let healthy = selected
                .iter()
                .filter(|device| device.is_allocatable())
                .count();
            if healthy > 0 && faults.inject_health(id) {
                injected.push(healthy);
                phase.until = now + flap.down;
                // Include devices that are Unhealthy already, so that they do not become Healthy during the phase.
                phase.unhealthy = Some(selected.iter().map(|device| device.id.clone()).collect());
            }
        }
        injected
    }

    /// The IDs of the devices that the faults keep Unhealthy.
    pub fn unhealthy(&self) -> BTreeSet<Box<str>> {
        let unhealthy = self.0.values().filter_map(|phase| phase.unhealthy.as_ref());
        unhealthy.flatten().cloned().collect()
    }

    /// When the next phase ends. `None`: no fault has a phase.
    pub fn next(&self) -> Option<Instant> {
        self.0.values().map(|phase| phase.until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::device::Health;
    use std::time::Duration;

    fn set(faults: &mut Faults, json: &str) {
        let fault = serde_json::from_str(json).expect("a fault");
        faults.set(fault, 1).expect("room");
    }

    fn devices(count: usize) -> Devices {
        let device = |index| Device::new(format!("d{index}"), index, [].into());
        Devices::from_list((0..count).map(device).collect())
    }

    #[test]
    fn devices_become_unhealthy_and_healthy_in_turn() {
        let json = r#"{"on": "health", "devices": "1-2", "up": "10s", "down": "5s", "after": 1, "times": 2}"#;
        let (mut faults, mut flaps, start) = (Faults::default(), Flaps::default(), Instant::now());
        set(&mut faults, json);
        let mut at = |second: u64, faults: &mut Faults, count: usize| {
            let now = start + Duration::from_secs(second);
            let injected = flaps.advance(faults, now, &devices(count));
            let next = flaps.next().map(|next| (next - start).as_secs());
            (
                injected.iter().sum::<usize>(),
                flaps.unhealthy().len(),
                next,
            )
        };
        for (second, count, expected) in [
            (0, 3, (0, 0, Some(10))),
            (9, 3, (0, 0, Some(10))),
            // The first injection is skipped.
            (10, 3, (0, 0, Some(20))),
            (20, 3, (2, 2, Some(25))),
            (24, 3, (0, 2, Some(25))),
            (25, 3, (0, 0, Some(35))),
            // The selected devices are missing.
            (35, 1, (0, 0, Some(45))),
            // One of the selected devices exists.
            (45, 2, (1, 1, Some(50))),
            (50, 3, (0, 0, Some(60))),
            // The fault is exhausted.
            (60, 3, (0, 0, None)),
        ] {
            assert_eq!(at(second, &mut faults, count), expected, "at {second} s");
        }
        assert_eq!(faults.armed()[0].seen, 3);
        faults.clear();
        assert_eq!(at(61, &mut faults, 3), (0, 0, None));
    }

    #[test]
    fn a_device_that_is_already_unhealthy_stays_unhealthy_during_the_phase() {
        let (mut faults, mut flaps, start) = (Faults::default(), Flaps::default(), Instant::now());
        set(
            &mut faults,
            r#"{"on": "health", "devices": "0-1", "up": "1s", "down": "1h"}"#,
        );
        let mut devices = devices(3);
        devices.set_health("d0", Health::Unhealthy).expect("there");
        flaps.advance(&mut faults, start, &devices);
        let injected = flaps.advance(&mut faults, start + Duration::from_secs(1), &devices);
        assert_eq!((injected, flaps.unhealthy().len()), (vec![1], 2));
    }

    #[test]
    fn clearing_the_fault_makes_its_devices_healthy() {
        let (mut faults, mut flaps, start) = (Faults::default(), Flaps::default(), Instant::now());
        set(
            &mut faults,
            r#"{"on": "health", "devices": "all", "up": "1s", "down": "1h"}"#,
        );
        for (second, unhealthy) in [(0, 0), (1, 2)] {
            flaps.advance(
                &mut faults,
                start + Duration::from_secs(second),
                &devices(2),
            );
            assert_eq!(flaps.unhealthy().len(), unhealthy);
        }
        faults.clear();
        flaps.advance(&mut faults, start + Duration::from_secs(2), &devices(2));
        assert!(flaps.unhealthy().is_empty());
    }
}
