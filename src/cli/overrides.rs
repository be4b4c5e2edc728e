//! The commands `health`, `scale` and `reset`, which override the running daemon's configuration or undo that.

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
        // clap's own usage is longer than 80 columns.
        override_usage = "simple-device-plugin health RESOURCE DEVICES healthy|unhealthy [OPTIONS]",
        after_help = "Example:\n  simple-device-plugin health example.com/gpu 0,2-3 unhealthy"
    )]
    Health {
        /// Name of the resource
        resource: String,
        /// Device IDs, indexes or ranges, such as 0,2-3; or `all`
        devices: String,
        /// Health to advertise to the kubelet
        #[arg(hide_possible_values = true, value_name = "healthy|unhealthy")]
        health: Health,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Set the number of devices of a resource, until `reset` or a restart
    #[command(after_help = "Example:\n  simple-device-plugin scale example.com/gpu 6")]
    Scale {
        /// Name of the resource
        resource: String,
        /// Number of devices; a surplus device stays while a pod holds it
        #[arg(value_parser = parse_count, allow_negative_numbers = true)]
        count: usize,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove a resource's overrides and the faults set at run time
    #[command(after_help = "Example:\n  simple-device-plugin reset example.com/gpu")]
    Reset {
        /// Name of the resource
        resource: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// clap prints the error after the invalid value.
fn parse_count(text: &str) -> Result<usize, &'static str> {
    text.parse()
        .map_err(|_| "expected a whole number, 0 or more")
}

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
