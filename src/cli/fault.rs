//! `fault`: sets, shows and clears faults of the running daemon.

use std::io::Write;
use std::path::Path;

use clap::{Args, Subcommand};

use super::status::{ask, injected};
use super::style::{ODD, PLAIN};
use super::{print, request};
use crate::control::Request;
use crate::fault::FaultSpec;
use crate::observe::status::WithDevices;

/// A fault, or what to do with those that there are.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<FaultCommand>,
    /// The resource's name
    #[arg(required = true)]
    resource: Option<String>,
    #[command(flatten)]
    fault: Option<FaultSpec>,
}

#[derive(Debug, Subcommand)]
enum FaultCommand {
    /// Show all faults, and how often each was injected
    List,
    /// Take all faults away, those of the configuration too
    Clear {
        /// Of this resource alone
        resource: Option<String>,
    },
}

/// Does it, and prints what then is.
pub fn run(socket: &Path, arguments: Arguments, out: &mut impl Write) -> anyhow::Result<()> {
    let request = match (arguments.command, arguments.resource, arguments.fault) {
        (None, Some(resource), Some(fault)) => Request::Fault {
            resource,
            fault: fault.into(),
        },
        (Some(FaultCommand::Clear { resource }), ..) => Request::Clear { resource },
        (Some(FaultCommand::List), ..) | (None, _, _) => return list(socket, out),
    };
    request::run(socket, &request, out)
}

fn list(socket: &Path, out: &mut impl Write) -> anyhow::Result<()> {
    let status = ask(socket, WithDevices::None)?;
    let rows = status.resources.iter().flat_map(|resource| {
        resource.faults.iter().map(|fault| {
            let by = if fault.set_at_run_time {
                "command"
            } else {
                "configuration"
            };
            let row = format!(
                "{}\t{}\t{by}\t{}",
                resource.name,
                injected(fault),
                fault.fault
            );
            (if fault.injected > 0 { ODD } else { PLAIN }, row)
        })
    });
    let rows: Vec<_> = rows.collect();
    if rows.is_empty() {
        return Ok(writeln!(out, "no faults")?);
    }
    Ok(print::table(
        out,
        "RESOURCE\tINJECTED\tSET BY\tFAULT",
        rows,
    )?)
}
