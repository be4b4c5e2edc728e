//! A fault that is set: its counters, and the decision whether the next injection happens.

use super::{Fault, FaultKind};

/// Identifies a fault of a resource. IDs are not reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FaultId(pub(super) u64);

#[derive(Clone, Debug)]
pub struct ArmedFault {
    pub id: FaultId,
    /// The fault with the user's seed or, if it has a probability, a random one.
    pub fault: Fault,
    /// Whether the fault was set at run time. If not, it comes from the configuration.
    pub(crate) set_at_run_time: bool,
    /// The number of calls, streams, registrations or phases that it was evaluated for.
    pub seen: u64,
    /// The number of injections.
    pub injected: u64,
    /// The number of calls that it currently delays.
    pub(super) delaying: usize,
    /// The fault as configured or as set at run time, without a random seed.
    pub(super) requested: Fault,
    rng: fastrand::Rng,
}

impl ArmedFault {
    /// `seed` is used if the fault has none.
    pub(super) fn new(id: FaultId, requested: Fault, set_at_run_time: bool, seed: u64) -> Self {
        let mut fault = requested.clone();
        let schedule = &mut fault.schedule;
        let seed = schedule.seed.unwrap_or(seed);
        // Without a probability, a seed has no effect. It is shown only if the user gave it.
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

    /// Whether the fault reached its maximum number of injections. The effect of the last one may still last.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.fault.times().is_reached_by(self.injected)
    }

    /// Whether the fault can still be injected, or suspends the registration until it is cleared.
    pub(super) fn is_active(&self) -> bool {
        let suspends = matches!(self.fault.on, FaultKind::Registration { duration: None });
        !self.is_exhausted() || suspends
    }

    /// Whether the fault is exhausted and has no lasting effect, so that removing it changes nothing.
    pub(super) fn is_finished(&self) -> bool {
        let has_effect = match &self.fault.on {
            FaultKind::Stream => false,
            FaultKind::Registration { .. } | FaultKind::Health(_) => true,
            _ => self.delaying > 0,
        };
        self.is_exhausted() && !has_effect
    }

    /// Evaluates the fault once and counts the result. The same seed gives the same sequence.
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

    /// Evaluates the fault repeatedly, and returns the indexes of the evaluations that injected it.
    fn injected(json: &str, evaluations: usize) -> Vec<usize> {
        let fault = serde_json::from_str(json).expect("a fault");
        let mut armed = ArmedFault::new(FaultId(0), fault, true, 1);
        (0..evaluations).filter(|_| armed.injects()).collect()
    }

    #[test]
    fn skips_the_first_calls_and_stops_after_the_maximum() {
        let always = r#"{"on": "allocate", "delay": "1s", "times": "unlimited"}"#;
        assert_eq!(injected(always, 3), [0, 1, 2]);
        let some = r#"{"on": "allocate", "delay": "1s", "after": 3, "times": 2}"#;
        assert_eq!(injected(some, 9), [3, 4]);
    }

    #[test]
    fn the_seed_determines_which_calls_are_injected() {
        let seeded = |seed: u64| {
            let json = r#"{"on": "allocate", "delay": "1s", "probability": 0.5, "seed": SEED, "times": "unlimited"}"#;
            injected(&json.replace("SEED", &seed.to_string()), 200)
        };
        assert_eq!(seeded(7), seeded(7));
        assert_ne!(seeded(7), seeded(8));
        assert!((70..130).contains(&seeded(7).len()), "{}", seeded(7).len());
        // Skipped calls advance the generator too, so `after` does not shift the sequence.
        let after = r#"{"on": "allocate", "delay": "1s", "probability": 0.5, "seed": 7, "after": 50, "times": "unlimited"}"#;
        let later: Vec<usize> = seeded(7).into_iter().filter(|n| *n >= 50).collect();
        assert_eq!(injected(after, 200), later);
    }

    #[test]
    fn probability_0_never_injects_and_1_always_does() {
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
    fn default_is_one_injection_except_for_health() {
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
