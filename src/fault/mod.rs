//! Faults on demand: what can go wrong with a resource, and when. The time and chance are arguments.

mod armed;
mod delays;
mod flap;
mod keys;
mod kinds;
mod list;
#[cfg(test)]
mod schema;
pub(crate) mod values;

pub(crate) use armed::{Armed, FaultId};
pub(crate) use delays::{BOUNDS, BOUNDS_FOR, Delays, Grant};
pub(crate) use flap::Flaps;
pub(crate) use kinds::{CallFault, FaultKind, Flap, Schedule};
pub use kinds::{Fault, InjectionPoint, UncalledRpc};
pub(crate) use list::{Evaluated, FAULTS_MAX, FLAPS_MAX, OfCall, Suspension};
pub use list::{Faults, TooMany};
