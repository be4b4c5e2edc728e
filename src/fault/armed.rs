//! One fault while the program runs: how often it was injected, and whether it is injected this time.

use super::{Effect, Fault};

/// Which fault of a resource; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FaultId(pub(super) u64);

/// A fault that is set, and how often it was injected.
#[derive(Clone, Debug)]
pub struct Armed {
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
    pub(super) asked: Fault,
    chance: fastrand::Rng,
}

impl Armed {
    /// Where the fault needs a seed and names none, it gets this one.
    pub(super) fn new(id: FaultId, asked: Fault, set_at_run_time: bool, seed: u64) -> Self {
        let mut fault = asked.clone();
        let seed = asked.spec.seed.unwrap_or(seed);
        // Where nothing is left to chance, a seed tells nothing.
        let needed = asked.spec.probability.map(|_| seed);
        fault.spec.seed = asked.spec.seed.or(needed);
        Self {
            id,
            fault,
            set_at_run_time,
            seen: 0,
            injected: 0,
            delaying: 0,
            asked,
            chance: fastrand::Rng::with_seed(seed),
        }
    }

    /// Whether it has been injected as often as it may be. Its effect may last.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.injected >= self.fault.times()
    }

    /// Whether taking it away changes nothing.
    pub(super) fn is_over(&self) -> bool {
        let goes_on = match self.fault.effect() {
            Effect::DropStream | Effect::Refuse(_) => false,
            Effect::Delay(_) => self.delaying > 0,
            Effect::SuspendRegistration(_) | Effect::Flap(_) => true,
        };
        self.is_exhausted() && !goes_on
    }

    /// Whether it is injected this time. The same seed gives the same sequence.
    pub(super) fn injects(&mut self) -> bool {
        let spec = self.fault.spec();
        let drawn = self.chance.f64();
        let is_likely = spec.probability.is_none_or(|p| drawn < p.get());
        self.seen += 1;
        let injects = self.seen > spec.after.unwrap_or(0) && !self.is_exhausted() && is_likely;
        self.injected += u64::from(injects);
        injects
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::FaultSpec;

    /// At which of these times it is injected.
    fn injected(json: &str, times: usize) -> Vec<usize> {
        let spec: FaultSpec = serde_json::from_str(json).expect("a spec");
        let mut armed = Armed::new(FaultId(0), spec.fault(None).expect("a fault"), true, 1);
        (0..times).filter(|_| armed.injects()).collect()
    }

    #[test]
    fn it_strikes_after_so_many_so_many_times() {
        let always = r#"{"rpc": "allocate", "delay": "1s", "times": "unlimited"}"#;
        assert_eq!(injected(always, 3), [0, 1, 2]);
        let some = r#"{"rpc": "allocate", "delay": "1s", "after": 3, "times": 2}"#;
        assert_eq!(injected(some, 9), [3, 4]);
    }

    #[test]
    fn a_seed_repeats_a_run_and_another_does_not() {
        let seeded = |seed: u64| {
            let json = r#"{"rpc": "allocate", "delay": "1s", "probability": 0.5, "seed": SEED, "times": "unlimited"}"#;
            injected(&json.replace("SEED", &seed.to_string()), 200)
        };
        assert_eq!(seeded(7), seeded(7));
        assert_ne!(seeded(7), seeded(8));
        assert!((70..130).contains(&seeded(7).len()), "{}", seeded(7).len());
        // What goes by is drawn too, so that `after` shifts nothing.
        let after = r#"{"rpc": "allocate", "delay": "1s", "probability": 0.5, "seed": 7, "after": 50, "times": "unlimited"}"#;
        let of_the_rest: Vec<usize> = seeded(7).into_iter().filter(|n| *n >= 50).collect();
        assert_eq!(injected(after, 200), of_the_rest);
    }

    #[test]
    fn never_and_always_are_certain() {
        let with = |p: &str| {
            injected(
                &r#"{"rpc": "allocate", "delay": "1s", "probability": P, "times": "unlimited"}"#
                    .replace('P', p),
                100,
            )
            .len()
        };
        assert_eq!((with("0"), with("1.0")), (0, 100));
    }

    #[test]
    fn it_strikes_once_unless_more_is_asked_for() {
        for (json, expected) in [
            (r#"{"rpc": "stream"}"#, 1),
            (r#"{"rpc": "stream", "times": "unlimited"}"#, 5),
            (r#"{"rpc": "allocate", "delay": "1s"}"#, 1),
            (
                r#"{"rpc": "pre-start", "error": "INTERNAL", "times": "unlimited"}"#,
                5,
            ),
            (r#"{"rpc": "stream", "times": 3}"#, 3),
            (r#"{"rpc": "registration"}"#, 1),
            (r#"{"rpc": "options", "error": "INTERNAL"}"#, 1),
            (r#"{"rpc": "preferred", "error": "INTERNAL"}"#, 1),
            (
                r#"{"rpc": "health", "devices": "0", "up": "1s", "down": "1s"}"#,
                5,
            ),
        ] {
            assert_eq!(injected(json, 5).len(), expected, "{json}");
        }
    }
}
