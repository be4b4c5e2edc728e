//! Faults on demand: what can go wrong with a resource, and when. The time and chance are arguments.

mod armed;
mod delays;
mod flap;
mod list;
mod spec;
mod words;

pub(crate) use armed::{Armed, FaultId};
pub(crate) use delays::{BOUNDS, BOUNDS_FOR, DELAY_MAX_MS, Delays, Grant};
pub(crate) use flap::Flaps;
pub use list::Faults;
pub(crate) use list::{Evaluated, FAULTS_MAX, FLAPS_MAX, OfCall, Suspension, TooMany};
pub use spec::FaultSpec;
pub(crate) use spec::SpecError;
pub use words::Target;
pub(crate) use words::{ErrorCode, Probability, Span, Times};

use std::time::Duration;

/// What a fault does when it is injected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// The call waits for so long before it is answered.
    Delay(Duration),
    /// The call is refused.
    Refuse(Refusal),
    /// The stream of devices ends.
    DropStream,
    /// The resource is not registered for so long, or until the fault is cleared.
    SuspendRegistration(Option<Duration>),
    Flap(Flap),
}

/// The error that the kubelet gets instead of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: ErrorCode,
    pub message: String,
}

/// Devices that become Unhealthy and Healthy again, repeatedly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flap {
    /// Which (see [`crate::model::selection`]).
    pub devices: String,
    /// How long they are Healthy.
    pub up: Duration,
    /// How long they are Unhealthy then.
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

    pub(crate) fn effect(&self) -> &Effect {
        &self.effect
    }

    /// How often it is injected at most. Once by default: a refusal without a bound makes a controller create failing pods by
    /// the thousand. Devices flap until that is cleared.
    fn times(&self) -> u64 {
        let default = match self.spec.rpc {
            Target::Health => Times::UNLIMITED,
            _ => Times::ONCE,
        };
        self.spec.times.unwrap_or(default).most()
    }
}
