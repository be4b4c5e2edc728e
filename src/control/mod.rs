//! The control socket: a client asks in one line of JSON, and gets one line of JSON.

pub mod client;
pub mod server;

use serde::{Deserialize, Serialize};

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
}

/// What it gets.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reply {
    /// What it asked for.
    Status(Box<Status>),
    /// Why it gets nothing.
    Error(String),
}
