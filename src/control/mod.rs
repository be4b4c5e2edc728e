//! The control socket: a client asks in one line of JSON, and gets one line of JSON.

pub mod client;
mod by_hand;
pub mod server;

use serde::{Deserialize, Serialize};

use crate::device::Health;
use crate::status::Status;

/// What a client asks for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Request {
    /// The status: of all, without or with devices, or of one resource with its devices.
    Status {
        /// Of this resource alone.
        #[serde(default)]
        resource: Option<String>,
        /// With the devices of all.
        #[serde(default)]
        devices: bool,
    },
    /// Another health, by hand.
    Health {
        /// Of this resource.
        resource: String,
        /// Of these devices: IDs, indexes, ranges, or all (see [`crate::selection`]).
        devices: String,
        /// This one.
        health: HealthWord,
    },
    /// Another number of devices, by hand.
    Devices {
        /// Of this resource.
        resource: String,
        /// So many.
        count: usize,
    },
    /// Back to what the configuration says.
    Config {
        /// Of this resource.
        resource: String,
    },
}

/// A device's health.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthWord {
    /// Can be given to pods.
    Healthy,
    /// Cannot.
    Unhealthy,
}

impl From<HealthWord> for Health {
    fn from(word: HealthWord) -> Self {
        match word {
            HealthWord::Healthy => Self::Healthy,
            HealthWord::Unhealthy => Self::Unhealthy,
        }
    }
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
