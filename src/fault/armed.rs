//! The faults of one resource while the program runs.

use thiserror::Error;

use super::{Effect, Fault, Target};

/// For one resource; each is judged at every call.
pub const FAULTS_MAX: usize = 64;

/// Which fault of a resource; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FaultId(u64);

/// A fault that can strike.
#[derive(Clone, Debug)]
pub struct Armed {
    /// Which.
    pub id: FaultId,
    /// What was asked for, with its seed.
    pub fault: Fault,
    /// Whether it was set by hand.
    pub by_hand: bool,
    /// How often it could have struck.
    pub seen: u64,
    /// How often it did.
    pub struck: u64,
    chance: fastrand::Rng,
}

impl Armed {
    /// Judges the next time that it could strike. The same seed judges alike again.
    fn strikes(&mut self) -> bool {
        let spec = self.fault.spec();
        let drawn = self.chance.f64();
        let is_likely = spec.probability.is_none_or(|p| drawn < p.get());
        self.seen += 1;
        let strikes =
            self.seen > spec.after.unwrap_or(0) && self.struck < self.fault.times() && is_likely;
        self.struck += u64::from(strikes);
        strikes
    }
}

/// A fault struck.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strike {
    /// Which.
    pub id: FaultId,
    /// What comes of it.
    pub effect: Effect,
}

/// There are too many faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("there are {FAULTS_MAX} faults already; fault clear takes them away")]
pub struct TooMany;

/// All faults of one resource.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    armed: Vec<Armed>,
    next: u64,
}

impl Faults {
    /// Those that can strike, in the order in which they came.
    pub fn armed(&self) -> &[Armed] {
        &self.armed
    }

    /// Whether this fault is still there.
    pub fn has(&self, id: FaultId) -> bool {
        self.armed.iter().any(|armed| armed.id == id)
    }

    /// Whether something can strike this.
    pub fn threaten(&self, target: Target) -> bool {
        self.armed
            .iter()
            .any(|armed| armed.fault.spec().rpc == target)
    }

    /// One more, by hand. Where it names no seed it gets this one. Returns it as it is armed.
    ///
    /// # Errors
    /// When there are too many.
    pub fn set(&mut self, fault: Fault, seed: u64) -> Result<&Armed, TooMany> {
        if self.armed.len() >= FAULTS_MAX {
            return Err(TooMany);
        }
        self.arm(fault, true, seed);
        self.armed.last().ok_or(TooMany)
    }

    /// Replaces the faults of the configuration; those that were set by hand stay.
    pub fn configure(&mut self, configured: &[Fault], mut seed: impl FnMut() -> u64) {
        self.armed.retain(|armed| armed.by_hand);
        for fault in configured {
            self.arm(fault.clone(), false, seed());
        }
    }

    /// Takes all away; returns how many.
    pub fn clear(&mut self) -> usize {
        std::mem::take(&mut self.armed).len()
    }

    /// Judges each fault of this target that `is_meant`; returns those that strike.
    pub fn strike(
        &mut self,
        target: Target,
        mut is_meant: impl FnMut(FaultId) -> bool,
    ) -> Vec<Strike> {
        let of_target = self
            .armed
            .iter_mut()
            .filter(|armed| armed.fault.spec().rpc == target);
        let struck = of_target.filter_map(|armed| {
            (is_meant(armed.id) && armed.strikes()).then(|| Strike {
                id: armed.id,
                effect: armed.fault.effect().clone(),
            })
        });
        struck.collect()
    }

    /// It struck, but nothing came of it: it does not count.
    pub fn take_back(&mut self, id: FaultId) {
        if let Some(armed) = self.armed.iter_mut().find(|armed| armed.id == id) {
            armed.struck = armed.struck.saturating_sub(1);
        }
    }

    fn arm(&mut self, mut fault: Fault, by_hand: bool, seed: u64) {
        let spec = &mut fault.spec;
        let seed = spec.seed.unwrap_or(seed);
        // Where nothing is left to chance, a seed tells nothing.
        spec.seed = spec.seed.or(spec.probability.map(|_| seed));
        self.armed.push(Armed {
            id: FaultId(self.next),
            fault,
            by_hand,
            seen: 0,
            struck: 0,
            chance: fastrand::Rng::with_seed(seed),
        });
        self.next += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(json: &str) -> Fault {
        let spec: super::super::FaultSpec = serde_json::from_str(json).expect("a spec");
        spec.fault().expect("a fault")
    }

    /// Which of so many times it strikes.
    fn struck(json: &str, times: usize) -> Vec<usize> {
        let mut faults = Faults::default();
        faults.set(fault(json), 1).expect("room");
        let strikes = |_: &usize| !faults.strike(Target::Allocate, |_| true).is_empty();
        (0..times).filter(strikes).collect()
    }

    #[test]
    fn it_strikes_after_so_many_so_many_times() {
        let plain = r#"{"rpc": "allocate", "delay": "1s"}"#;
        assert_eq!(struck(plain, 3), [0, 1, 2]);
        let some = r#"{"rpc": "allocate", "delay": "1s", "after": 3, "times": 2}"#;
        assert_eq!(struck(some, 9), [3, 4]);
    }

    #[test]
    fn a_seed_repeats_a_run_and_another_does_not() {
        let seeded = |seed: u64| {
            let json = r#"{"rpc": "allocate", "delay": "1s", "probability": 0.5, "seed": SEED}"#;
            struck(&json.replace("SEED", &seed.to_string()), 200)
        };
        assert_eq!(seeded(7), seeded(7));
        assert_ne!(seeded(7), seeded(8));
        assert!((70..130).contains(&seeded(7).len()), "{}", seeded(7).len());
        // What goes by is drawn too, so that `after` shifts nothing.
        let after =
            r#"{"rpc": "allocate", "delay": "1s", "probability": 0.5, "seed": 7, "after": 50}"#;
        let of_the_rest: Vec<usize> = seeded(7).into_iter().filter(|n| *n >= 50).collect();
        assert_eq!(struck(after, 200), of_the_rest);
    }

    #[test]
    fn never_and_always_are_certain() {
        let with = |p: &str| {
            struck(
                &r#"{"rpc": "allocate", "delay": "1s", "probability": P}"#.replace('P', p),
                100,
            )
            .len()
        };
        assert_eq!((with("0"), with("1.0")), (0, 100));
    }

    #[test]
    fn a_stream_is_dropped_once_unless_more_is_asked_for() {
        for (json, expected) in [
            (r#"{"rpc": "stream"}"#, 1),
            (r#"{"rpc": "stream", "times": 3}"#, 3),
        ] {
            let mut faults = Faults::default();
            faults.set(fault(json), 1).expect("room");
            let struck = (0..5).filter(|_| !faults.strike(Target::Stream, |_| true).is_empty());
            assert_eq!(struck.count(), expected, "{json}");
        }
    }

    #[test]
    fn the_configuration_replaces_its_own_and_clear_takes_all() {
        let mut faults = Faults::default();
        let (one, other) = (
            fault(r#"{"rpc": "stream", "probability": 1}"#),
            fault(r#"{"rpc": "registration"}"#),
        );
        faults.configure(&[one.clone(), other.clone()], || 5);
        let by_hand = faults.set(other.clone(), 6).expect("room").id;
        let seeds = faults.armed().iter().map(|armed| armed.fault.spec().seed);
        assert_eq!(seeds.collect::<Vec<_>>(), [Some(5), None, None]);
        faults.configure(&[one], || 7);
        assert_eq!(faults.armed().len(), 2);
        assert!(faults.has(by_hand) && faults.threaten(Target::Stream));
        assert!(!faults.threaten(Target::Allocate));
        assert_eq!(faults.clear(), 2);
        assert!(!faults.has(by_hand));
        while faults.set(other.clone(), 1).is_ok() {}
        assert_eq!(faults.armed().len(), FAULTS_MAX);
    }
}
