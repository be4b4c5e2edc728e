//! Fault injection: the kinds of faults, their schedules and their limits. Times and random seeds are arguments.

mod armed;
mod delays;
mod flap;
mod keys;
mod kinds;
mod list;
#[cfg(test)]
mod schema;
pub(crate) mod values;

pub(crate) use armed::{ArmedFault, FaultId};
pub(crate) use delays::{DELAY_LIMITS, DELAY_LIMITS_REASON, Delays, Grant};
pub(crate) use flap::Flaps;
pub(crate) use kinds::{CallFault, FaultKind, Flap, Schedule};
pub use kinds::{Fault, InjectionPoint, UncalledRpc};
pub(crate) use list::{CallInjections, Evaluated, FAULTS_MAX, FLAPS_MAX, Suspension};
pub use list::{Faults, TooManyFaults};
