//! The control protocol: a client sends one request and gets one reply. Each is a line of JSON with the protocol
//! version. The client makes the human-readable text, except for texts of the daemon in the status, such as `waitsFor`
//! and `lastError.what`.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::fault::{Fault, TooManyFaults, UncalledRpc};
use crate::model::device::Health;
use crate::model::selection::SelectionError;
use crate::observe::status::{Status, WithDevices};
use crate::offer::CountError;
use crate::util::sanitize::sanitize;

/// The protocol version. It is raised when requests or replies change their meaning.
pub const VERSION: u64 = 1;

/// A request or a reply on the wire.
#[derive(Debug, Serialize, Deserialize)]
pub struct Message<T> {
    pub version: u64,
    pub body: T,
}

/// The part of a message that is the same in every protocol version.
#[derive(Debug, Deserialize)]
#[serde(expecting = "an object with a version")]
pub(super) struct MessageVersion {
    /// 0 if the message has no version.
    #[serde(default)]
    pub version: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Request {
    Status {
        devices: WithDevices,
    },
    Health {
        resource: String,
        /// Device IDs, indexes or index ranges: see [`crate::model::selection`].
        devices: String,
        health: Health,
    },
    Scale {
        resource: String,
        count: usize,
    },
    /// Removes the overrides of a resource and its faults that were set at run time.
    Reset {
        resource: String,
    },
    Fault {
        resource: String,
        fault: Box<Fault>,
    },
    /// Removes all faults of a resource, including configured ones.
    Clear {
        resource: String,
    },
    /// Removes all faults of all resources.
    ClearAll {},
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reply {
    Status(Box<Status>),
    Health(HealthReply),
    Scale(ScaleReply),
    Reset(ResetReply),
    Fault(Box<FaultReply>),
    Clear(Vec<ClearReply>),
    Refused(Refusal),
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthReply {
    pub resource: String,
    pub health: Health,
    /// How many devices were selected.
    pub devices: usize,
    /// The device's ID if exactly one device was selected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// How many of the selected devices a fault keeps Unhealthy.
    pub fault_unhealthy: usize,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScaleReply {
    pub resource: String,
    pub devices: usize,
    pub pending_removal: usize,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResetReply {
    pub resource: String,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FaultReply {
    pub resource: String,
    /// The fault as it was set. If it has a probability, it has a seed, which may be random.
    pub fault: Fault,
    /// Why the fault is never injected; `None` if the kubelet makes the call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub never_injected: Option<UncalledRpc>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClearReply {
    pub resource: String,
    /// How many faults were removed.
    pub faults: usize,
}

/// Why the daemon refused a request. It has changed nothing.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize, Error)]
#[serde(rename_all = "camelCase")]
pub enum Refusal {
    #[error(
        "the daemon uses version {supported} of the control protocol, and this command version {VERSION}: use a simple-device-plugin of the daemon's version"
    )]
    Version { supported: u64 },
    /// The JSON parser's message.
    #[error("invalid request: {}", sanitize(.0))]
    Malformed(String),
    #[error("resource {} not found; {}", sanitize(.resource), known_resources(.known, *.more))]
    NoSuchResource {
        resource: String,
        /// The first of the existing resources.
        known: Vec<String>,
        /// How many existing resources `known` leaves out.
        more: usize,
    },
    #[error("{}: {}", sanitize(.resource), sanitize(&.reason.to_string()))]
    Devices {
        resource: String,
        reason: SelectionError,
    },
    #[error("{}: {reason}", sanitize(.resource))]
    Count {
        resource: String,
        reason: CountError,
    },
    #[error("{}: {reason}", sanitize(.resource))]
    TooManyFaults {
        resource: String,
        reason: TooManyFaults,
    },
    #[error("internal error: see the daemon's log")]
    Internal,
}

fn known_resources(known: &[String], more: usize) -> String {
    let names = sanitize(&known.join(", "));
    match (known, more) {
        ([], _) => "no resources are configured".to_owned(),
        (_, 0) => format!("configured: {names}"),
        (_, more) => format!("configured: {names} and {more} more"),
    }
}
