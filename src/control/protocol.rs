//! What client and daemon say to each other: one request and one reply, each a line of JSON with the version of the
//! protocol. All text for people is made by the client.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::fault::{Fault, TooManyFaults, UncalledRpc};
use crate::model::device::Health;
use crate::model::selection::SelectionError;
use crate::observe::status::{Status, WithDevices};
use crate::offer::CountError;
use crate::util::sanitize::sanitize;

/// Another version means that requests or replies have changed their meaning.
pub const VERSION: u64 = 1;

/// A request or a reply on the wire.
#[derive(Debug, Serialize, Deserialize)]
pub struct Message<T> {
    pub version: u64,
    pub body: T,
}

/// The part of a message that every version has.
#[derive(Debug, Deserialize)]
#[serde(expecting = "an object with a version")]
pub(super) struct MessageVersion {
    /// 0: a program that knows of no versions.
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
        /// IDs, indexes or ranges of indexes: see [`crate::model::selection`].
        devices: String,
        health: Health,
    },
    Scale {
        resource: String,
        count: usize,
    },
    /// Removes the overrides of a resource, and faults set at run time.
    Reset {
        resource: String,
    },
    Fault {
        resource: String,
        fault: Box<Fault>,
    },
    /// Removes all faults of a resource, the configured ones too.
    Clear {
        resource: String,
    },
    /// Removes all faults of every resource.
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
    /// The ID of the device, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// How many of them a fault keeps Unhealthy.
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
    /// With its seed, also where that is made up.
    pub fault: Fault,
    /// Why it is never injected, where the kubelet does not make the call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub never_injected: Option<UncalledRpc>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClearReply {
    pub resource: String,
    /// How many faults were removed.
    pub faults: usize,
}

/// Why nothing was done.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize, Error)]
#[serde(rename_all = "camelCase")]
pub enum Refusal {
    #[error(
        "the daemon speaks version {supported} of the control protocol, not {VERSION}: use a client of its version"
    )]
    Version { supported: u64 },
    /// The parser's words.
    #[error("not a request: {}", sanitize(.0))]
    Malformed(String),
    #[error("no resource {}; there are: {}", sanitize(.resource), listed(.known, *.more))]
    NoSuchResource {
        resource: String,
        /// Some of those that there are.
        known: Vec<String>,
        /// How many more there are.
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

fn listed(known: &[String], more: usize) -> String {
    let names = sanitize(&known.join(", "));
    match (known, more) {
        ([], _) => "none".to_owned(),
        (_, 0) => names,
        (_, more) => format!("{names} and {more} more"),
    }
}
