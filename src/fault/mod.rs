//! Faults on demand: what can go wrong with a resource, and when. The time and chance are arguments.

mod armed;
mod delays;
mod flap;
mod spec;
mod words;

pub use armed::{Armed, FAULTS_MAX, FaultId, Faults, Strike, TooMany};
pub use delays::{DELAY_MAX_MS, DELAYS_MAX, Delays, WINDOW};
pub use flap::Flaps;
pub use spec::{FaultSpec, SpecError};
pub use words::{ErrorCode, Probability, Span, Target};

use std::time::Duration;

/// What a fault does when it strikes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The call waits for so long before it is answered.
    Delay(Duration),
    /// The call is refused.
    Refuse(Refusal),
    /// The stream of devices ends.
    DropStream,
    /// The resource is not registered for so long, or until the fault is cleared.
    Withhold(Option<Duration>),
    /// Devices fall ill.
    Flap(Flap),
}

/// What the kubelet is told instead of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// gRPC's code.
    pub code: ErrorCode,
    /// In words.
    pub message: String,
}

/// Devices that fall ill and get well, again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flap {
    /// Which (see [`crate::selection`]).
    pub devices: String,
    /// How long they are well.
    pub up: Duration,
    /// How long they are ill then.
    pub down: Duration,
}

/// One fault of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    spec: FaultSpec,
    effect: Effect,
}

impl Fault {
    /// As it was asked for.
    pub fn spec(&self) -> &FaultSpec {
        &self.spec
    }

    /// What it does.
    pub fn effect(&self) -> &Effect {
        &self.effect
    }

    /// How often it strikes at most. A stream that is dropped and a registration that is withheld are so once:
    /// a resource that never comes back must be asked for.
    fn times(&self) -> u64 {
        let once = matches!(self.effect, Effect::DropStream | Effect::Withhold(_));
        let unless_told = if once { 1 } else { u64::MAX };
        self.spec.times.map_or(unless_told, u64::from)
    }
}
