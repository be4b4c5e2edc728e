//! The commands of the program. None of them decides an exit code.

mod check;
mod fault;
mod host;
pub mod logging;
mod overrides;
pub mod print;
mod request;
mod serve;
pub mod signals;
mod status;
pub mod style;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::cli::host::this_machine;
use crate::cli::signals::until_signal;
use crate::config::{Environment, control_socket};

/// A device plugin manager for Kubernetes: turns environment variables into extended resources.
///
/// Without a command it serves one device plugin per resource, for the kubelet of this node.
#[derive(Debug, Parser)]
#[command(version, after_help = VARIABLES)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

const VARIABLES: &str = "\
The resources are configured by the variables RESOURCE_NAME, NUMBER_DEVICES,
DEVICE_ID_PREFIX, ENV_PREFIX, ANNOTATION_PREFIX, DEVICE_FILE_PREFIX, NUMA_NODES
and more, or by the file that CONFIG_FILE names: see the README, and try
  RESOURCE_NAME=example.com/gpu NUMBER_DEVICES=4 simple-device-plugin check";

#[derive(Debug, Subcommand)]
enum Command {
    /// Check the configuration: show its resources, or every error in it
    Check(check::CheckArguments),
    /// Show the status of the running daemon
    Status {
        /// Show this resource alone, with its devices and who holds them
        resource: Option<String>,
        /// Print everything as JSON
        #[arg(long)]
        json: bool,
    },
    #[command(flatten)]
    Override(overrides::OverrideCommand),
    /// Inject faults into a resource of the running daemon
    #[command(subcommand)]
    Fault(fault::FaultCommand),
}

/// The control socket of the running daemon.
fn control(environment: &Environment) -> anyhow::Result<PathBuf> {
    let socket = control_socket(environment)?;
    socket.context("CONTROL_SOCKET is empty: the program has no control socket")
}

impl Cli {
    /// Carries the command out with these variables; prints to `out`, logs to stderr.
    ///
    /// # Errors
    /// [`ConfigErrors`](crate::config::ConfigErrors) in the variables,
    /// [`DirReplaced`](crate::node::watcher::DirReplaced), or whatever else kept it from doing so.
    pub fn run(
        self,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
        out: &mut impl Write,
    ) -> anyhow::Result<()> {
        // A name that is not UTF-8 is none of ours.
        let utf8 = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value));
        let environment: Environment = variables.into_iter().filter_map(utf8).collect();
        match self.command {
            None => until_signal(|signals| serve::run(environment, this_machine(), signals)),
            Some(Command::Check(arguments)) => {
                check::run(environment, this_machine(), arguments, out)
            }
            Some(Command::Status { resource, json }) => {
                let wanted = status::StatusOptions { resource, json };
                status::run(&control(&environment)?, &wanted, out)
            }
            Some(Command::Override(command)) => {
                overrides::run(&control(&environment)?, command, out)
            }
            Some(Command::Fault(command)) => fault::run(&control(&environment)?, command, out),
        }
    }
}
