//! One fault while the program runs: how often it was injected, and whether it is injected this time.

use super::{Fault, FaultKind};

/// Which fault of a resource; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FaultId(pub(super) u64);

/// A fault that is set, and how often it was injected.
#[derive(Clone, Debug)]
pub struct ArmedFault {
    pub id: FaultId,
    /// With its seed, also where that is made up.
    pub fault: Fault,
    /// Whether it was set at run time, not by the configuration.
    pub(crate) set_at_run_time: bool,
    /// How often it was evaluated.
    pub seen: u64,
    /// How often it did.
    pub injected: u64,
    /// Calls that it delays now.
    pub(super) delaying: usize,
    pub(super) requested: Fault,
    rng: fastrand::Rng,
}

impl ArmedFault {
    /// Where the fault needs a seed and names none, it gets this one.
    pub(super) fn new(id: FaultId, requested: Fault, set_at_run_time: bool, seed: u64) -> Self {
        let mut fault = requested.clone();
        let schedule = &mut fault.schedule;
        let seed = schedule.seed.unwrap_or(seed);
        // Without a probability, no seed is shown: it would change nothing.
        let needed = schedule.probability.map(|_| seed);
        schedule.seed = schedule.seed.or(needed);
        Self {
            id,
            fault,
            set_at_run_time,
            seen: 0,
            injected: 0,
            delaying: 0,
            requested,
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    /// Whether it has been injected as often as it may be. Its effect may last.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.fault.times().is_reached_by(self.injected)
    }

    /// Whether taking it away changes nothing.
    pub(super) fn is_finished(&self) -> bool {
        let has_effect = match &self.fault.on {
            FaultKind::Stream => false,
            FaultKind::Registration { .. } | FaultKind::Health(_) => true,
            _ => self.delaying > 0,
        };
        self.is_exhausted() && !has_effect
    }

    /// Whether it is injected this time. The same seed gives the same sequence.
    pub(super) fn injects(&mut self) -> bool {
        let schedule = &self.fault.schedule;
        let draw = self.rng.f64();
        let passes = schedule.probability.is_none_or(|p| draw < p.get());
        self.seen += 1;
        let injects = self.seen > schedule.after && !self.is_exhausted() && passes;
        self.injected += u64::from(injects);
        injects
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At which of these times it is injected.
    fn injected(json: &str, times: usize) -> Vec<usize> {
        let fault = serde_json::from_str(json).expect("a fault");
        let mut armed = ArmedFault::new(FaultId(0), fault, true, 1);
        (0..times).filter(|_| armed.injects()).collect()
    }

    #[test]
    fn it_is_injected_after_the_skipped_calls_until_its_times_are_reached() {
        let always = r#"{"on": "allocate", "delay": "1s", "times": "unlimited"}"#;
        assert_eq!(injected(always, 3), [0, 1, 2]);
        let some = r#"{"on": "allocate", "delay": "1s", "after": 3, "times": 2}"#;
        assert_eq!(injected(some, 9), [3, 4]);
    }

    #[test]
    fn the_same_seed_gives_the_same_injections_and_another_gives_others() {
        let seeded = |seed: u64| {
            let json = r#"{"on": "allocate", "delay": "1s", "probability": 0.5, "seed": SEED, "times": "unlimited"}"#;
            injected(&json.replace("SEED", &seed.to_string()), 200)
        };
        assert_eq!(seeded(7), seeded(7));
        assert_ne!(seeded(7), seeded(8));
        assert!((70..130).contains(&seeded(7).len()), "{}", seeded(7).len());
        // What goes by is drawn too, so that `after` shifts nothing.
        let after = r#"{"on": "allocate", "delay": "1s", "probability": 0.5, "seed": 7, "after": 50, "times": "unlimited"}"#;
        let of_the_rest: Vec<usize> = seeded(7).into_iter().filter(|n| *n >= 50).collect();
        assert_eq!(injected(after, 200), of_the_rest);
    }

    #[test]
    fn probabilities_of_0_and_1_are_certain() {
        let with = |p: &str| {
            injected(
                &r#"{"on": "allocate", "delay": "1s", "probability": P, "times": "unlimited"}"#
                    .replace('P', p),
                100,
            )
            .len()
        };
        assert_eq!((with("0"), with("1.0")), (0, 100));
    }

    #[test]
    fn it_is_injected_once_by_default_and_flaps_without_end() {
        for (json, expected) in [
            (r#"{"on": "stream"}"#, 1),
            (r#"{"on": "stream", "times": "unlimited"}"#, 5),
            (r#"{"on": "allocate", "delay": "1s"}"#, 1),
            (
                r#"{"on": "pre-start", "error": "INTERNAL", "times": "unlimited"}"#,
                5,
            ),
            (r#"{"on": "stream", "times": 3}"#, 3),
            (r#"{"on": "registration"}"#, 1),
            (r#"{"on": "options", "error": "INTERNAL"}"#, 1),
            (r#"{"on": "preferred", "error": "INTERNAL"}"#, 1),
            (
                r#"{"on": "health", "devices": "0", "up": "1s", "down": "1s"}"#,
                5,
            ),
        ] {
            assert_eq!(injected(json, 5).len(), expected, "{json}");
        }
    }
}
