//! Devices that fall ill and get well again, as time goes by.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::{Effect, FaultId, Faults, Target};

/// Where the flapping faults of one resource stand. The time is an argument.
#[derive(Debug, Default)]
pub struct Flaps(BTreeMap<FaultId, Phase>);

/// One of them.
#[derive(Debug)]
struct Phase {
    /// The devices that are ill, until it ends; `None`: they are well.
    ill: Option<Vec<Box<str>>>,
    /// When it ends.
    until: Instant,
}

impl Flaps {
    /// Follows the faults to this moment; `ids` are the devices that a text means now. Returns the faults that struck,
    /// with how many devices fell ill. Where none are meant any more, none falls ill, and it does not count.
    pub fn follow(
        &mut self,
        faults: &mut Faults,
        now: Instant,
        ids: impl Fn(&str) -> Vec<Box<str>>,
    ) -> Vec<(FaultId, usize)> {
        self.0.retain(|id, _| faults.has(*id));
        let flapping = faults.armed().iter();
        let flapping = flapping.filter_map(|armed| match armed.fault.effect() {
            Effect::Flap(flap) => Some((armed.id, flap.clone())),
            _ => None,
        });
        let mut fell = Vec::new();
        for (id, flap) in flapping.collect::<Vec<_>>() {
            let phase = self.0.entry(id).or_insert_with(|| Phase {
                ill: None,
                until: now + flap.up,
            });
            if phase.until > now {
                continue;
            }
            let was_ill = phase.ill.take().is_some();
            phase.until = now + flap.up;
            if was_ill
                || faults
                    .strike(Target::Health, |meant| meant == id)
                    .is_empty()
            {
                continue;
            }
            let ill = ids(&flap.devices);
            if ill.is_empty() {
                faults.take_back(id);
            } else {
                fell.push((id, ill.len()));
                phase.until = now + flap.down;
                phase.ill = Some(ill);
            }
        }
        fell
    }

    /// The devices that are ill.
    pub fn ill(&self) -> BTreeSet<Box<str>> {
        let ill = self.0.values().filter_map(|phase| phase.ill.as_ref());
        ill.flatten().cloned().collect()
    }

    /// When to look again.
    pub fn next(&self) -> Option<Instant> {
        self.0.values().map(|phase| phase.until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::FaultSpec;
    use std::time::Duration;

    #[test]
    fn devices_fall_ill_and_get_well_in_turn() {
        let json = r#"{"rpc": "health", "devices": "d", "up": "10s", "down": "5s", "after": 1, "times": 2}"#;
        let spec: FaultSpec = serde_json::from_str(json).expect("a spec");
        let (mut faults, mut flaps, start) = (Faults::default(), Flaps::default(), Instant::now());
        let id = faults
            .set(spec.fault().expect("a fault"), 1)
            .expect("room")
            .id;
        let mut look = |second: u64, faults: &mut Faults, there: bool| {
            let ids = |text: &str| Vec::from_iter(there.then(|| text.into()));
            let struck = flaps.follow(faults, start + Duration::from_secs(second), ids);
            let next = flaps.next().map(|next| (next - start).as_secs());
            (struck.len(), flaps.ill().len(), next)
        };
        for (second, there, expected) in [
            (0, true, (0, 0, Some(10))),
            (9, true, (0, 0, Some(10))),
            // The first goes by.
            (10, true, (0, 0, Some(20))),
            (20, true, (1, 1, Some(25))),
            (24, true, (0, 1, Some(25))),
            (25, true, (0, 0, Some(35))),
            // Nobody is there to fall ill.
            (35, false, (0, 0, Some(45))),
            (45, true, (1, 1, Some(50))),
            (50, true, (0, 0, Some(60))),
            // Twice is enough.
            (60, true, (0, 0, Some(70))),
        ] {
            assert_eq!(look(second, &mut faults, there), expected, "at {second} s");
        }
        assert!(faults.has(id));
        faults.clear();
        assert_eq!(look(61, &mut faults, true), (0, 0, None));
    }

    #[test]
    fn who_is_cleared_while_ill_is_well() {
        let json = r#"{"rpc": "health", "devices": "d", "up": "1s", "down": "1h"}"#;
        let spec: FaultSpec = serde_json::from_str(json).expect("a spec");
        let (mut faults, mut flaps, start) = (Faults::default(), Flaps::default(), Instant::now());
        faults.set(spec.fault().expect("a fault"), 1).expect("room");
        for (second, ill) in [(0, 0), (1, 1)] {
            flaps.follow(&mut faults, start + Duration::from_secs(second), |d| {
                vec![d.into()]
            });
            assert_eq!(flaps.ill().len(), ill);
        }
        faults.clear();
        flaps.follow(&mut faults, start + Duration::from_secs(2), |d| {
            vec![d.into()]
        });
        assert!(flaps.ill().is_empty());
    }
}
