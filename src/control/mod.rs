//! The control socket: a client asks in one line of JSON, and gets one line of JSON.

mod apply;
pub mod client;
pub mod server;

use clap::Subcommand;
use serde::{Deserialize, Serialize};

use crate::fault::Fault;
use crate::model::device::Health;
use crate::observe::status::{Status, WithDevices};

/// What a client asks for.
#[derive(Debug, Subcommand, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Request {
    /// How it stands.
    #[command(skip)]
    Status(WithDevices),
    /// Set the health of devices, until `reset` or a restart
    Health {
        /// The resource's name
        resource: String,
        /// IDs, indexes or ranges of indexes, comma-separated, as in 0,2-3; or all
        devices: String,
        /// The health that is reported to the kubelet
        #[arg(hide_possible_values = true, value_name = "healthy|unhealthy")]
        health: Health,
    },
    /// Set the number of devices of a resource, until `reset` or a restart
    Scale {
        /// The resource's name
        resource: String,
        /// The number of devices; surplus ones are removed once no pod holds them
        count: usize,
    },
    /// Remove the overrides of a resource, and faults set at run time
    Reset {
        /// The resource's name
        resource: String,
    },
    /// One more fault.
    #[command(skip)]
    Fault {
        /// Of this resource.
        resource: String,
        /// This one.
        fault: Box<Fault>,
    },
    /// No faults.
    #[command(skip)]
    Clear {
        /// Of this resource, or of all.
        resource: Option<String>,
    },
}

/// What it gets.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reply {
    /// What it asked for.
    Status(Box<Status>),
    /// It is done: what now is, in words.
    Done(String),
    /// Why it gets nothing.
    Error(String),
}
