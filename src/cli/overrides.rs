//! `health`, `scale` and `reset`: override the configuration of the running daemon.

use std::io::Write;
use std::path::Path;

use clap::Subcommand;

use crate::cli::request;
use crate::control::Request;
use crate::model::device::Health;

#[derive(Debug, Subcommand)]
pub(crate) enum OverrideCommand {
    /// Set the health of devices, until `reset` or a restart
    #[command(
        after_help = "Example:\n  simple-device-plugin health example.com/gpu 0,2-3 unhealthy"
    )]
    Health {
        /// The resource's name
        resource: String,
        /// IDs, indexes or ranges of indexes, as in 0,2-3; or all
        devices: String,
        /// The health that is reported to the kubelet
        #[arg(hide_possible_values = true, value_name = "healthy|unhealthy")]
        health: Health,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Set the number of devices of a resource, until `reset` or a restart
    #[command(after_help = "Example:\n  simple-device-plugin scale example.com/gpu 6")]
    Scale {
        /// The resource's name
        resource: String,
        /// The number of devices; surplus ones go once no pod holds them
        count: usize,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove the overrides of a resource, and faults set at run time
    #[command(after_help = "Example:\n  simple-device-plugin reset example.com/gpu")]
    Reset {
        /// The resource's name
        resource: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// Sends the request of the command, and prints the reply.
pub fn run(socket: &Path, command: OverrideCommand, out: &mut impl Write) -> anyhow::Result<()> {
    let (request, json) = match command {
        OverrideCommand::Health {
            resource,
            devices,
            health,
            json,
        } => {
            let request = Request::Health {
                resource,
                devices,
                health,
            };
            (request, json)
        }
        OverrideCommand::Scale {
            resource,
            count,
            json,
        } => (Request::Scale { resource, count }, json),
        OverrideCommand::Reset { resource, json } => (Request::Reset { resource }, json),
    };
    request::run(socket, &request, json, out)
}
