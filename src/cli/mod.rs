//! The commands of the program. They return errors; only `main` decides exit codes.

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
use clap::error::{ContextKind, ContextValue};
use clap::{Parser, Subcommand};

use crate::cli::host::this_machine;
use crate::cli::signals::until_signal;
use crate::config::{Environment, control_socket};

/// Serve simulated devices to the kubelet as extended resources
///
/// Without a command, run the daemon: one device plugin per resource.
#[derive(Debug, Parser)]
#[command(version, after_help = AFTER_HELP)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

const AFTER_HELP: &str = "\
Configure resources with environment variables such as RESOURCE_NAME and
NUMBER_DEVICES (docs/variables.md), or with a YAML file whose path is in
CONFIG_FILE (docs/config-file.md).

Example:
  RESOURCE_NAME=example.com/gpu NUMBER_DEVICES=4 simple-device-plugin check";

#[derive(Debug, Subcommand)]
enum Command {
    /// Check the configuration and show its resources, or all of its errors
    #[command(after_help = "Example:\n  simple-device-plugin check --node worker2")]
    Check(check::CheckArguments),
    /// Show the status of the running daemon
    #[command(after_help = "Example:\n  simple-device-plugin status example.com/gpu")]
    Status {
        /// Show only this resource, with its devices and their holders
        resource: Option<String>,
        /// Print JSON, with the devices of every resource
        #[arg(long)]
        json: bool,
    },
    #[command(flatten)]
    Override(overrides::OverrideCommand),
    /// Inject, list or clear faults of the running daemon
    #[command(
        subcommand,
        after_help = "Example:\n  simple-device-plugin fault allocate example.com/gpu --delay 10s"
    )]
    Fault(fault::FaultCommand),
}

/// Returns the path of the daemon's control socket.
fn control_path(environment: &Environment) -> anyhow::Result<PathBuf> {
    let socket = control_socket(environment)?;
    socket.context(
        "CONTROL_SOCKET=\"\": expected the path of the daemon's control socket; an empty value turns the socket off",
    )
}

impl Cli {
    /// Parses the arguments of the process. Exits after an invalid argument, and after `--help` and `--version`.
    pub fn parse_arguments() -> Self {
        Self::try_parse().unwrap_or_else(|error| with_tip(error).exit())
    }

    /// Returns whether [`Self::run`] starts the daemon, because no command is given.
    pub fn starts_daemon(&self) -> bool {
        self.command.is_none()
    }

    /// Runs the command with these environment variables. Prints to `out` and logs to stderr.
    ///
    /// # Errors
    /// Returns [`ConfigErrors`](crate::config::ConfigErrors) if the configuration has errors,
    /// [`DirReplaced`](crate::node::watcher::DirReplaced) if the device plugin directory was replaced, or any other
    /// error that made the command fail.
    pub fn run(
        self,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
        out: &mut impl Write,
    ) -> anyhow::Result<()> {
        // The names of our variables are ASCII, so other names can be ignored.
        let utf8 = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value));
        let environment: Environment = variables.into_iter().filter_map(utf8).collect();
        match self.command {
            None => until_signal(|signals| serve::run(environment, this_machine(), signals)),
            Some(Command::Check(arguments)) => {
                check::run(environment, this_machine(), arguments, out)
            }
            Some(Command::Status { resource, json }) => {
                let wanted = status::StatusOptions { resource, json };
                status::run(&control_path(&environment)?, &wanted, out)
            }
            Some(Command::Override(command)) => {
                overrides::run(&control_path(&environment)?, command, out)
            }
            Some(Command::Fault(command)) => fault::run(&control_path(&environment)?, command, out),
        }
    }
}

/// Adds a tip to the error about a resource in place of a command, as in `fault example.com/gpu stream`.
fn with_tip(mut error: clap::Error) -> clap::Error {
    if let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand)
        && word.contains('/')
    {
        let tip = format!("the command comes before the resource, as in 'fault stream {word}'");
        let tips = ContextValue::StyledStrs(vec![tip.into()]);
        error.insert(ContextKind::Suggested, tips);
    }
    error
}

#[cfg(test)]
mod tests {
    use clap::{Command, CommandFactory, Parser};

    use super::{Cli, with_tip};

    #[track_caller]
    fn assert_usage_error(arguments: &[&str], expected: &str) {
        let program = ["simple-device-plugin"];
        let parsed = Cli::try_parse_from(program.iter().chain(arguments));
        let error = with_tip(parsed.unwrap_err()).to_string();
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }

    #[test]
    fn a_count_is_a_whole_number_of_0_or_more() {
        for count in ["x", "-1", "1.5"] {
            let expected = format!(
                "invalid value '{count}' for '<COUNT>': expected a whole number, 0 or more"
            );
            assert_usage_error(&["scale", "example.com/gpu", count], &expected);
        }
    }

    #[test]
    fn a_resource_before_the_kind_of_a_fault_gets_a_tip() {
        assert_usage_error(
            &["fault", "example.com/gpu", "allocate"],
            "tip: the command comes before the resource, as in 'fault stream example.com/gpu'",
        );
    }

    fn assert_help(command: &mut Command) {
        for help in [command.render_help(), command.render_long_help()] {
            let help = help.to_string();
            assert!(help.lines().all(|line| line.len() <= 80), "{help}");
            assert!(help.contains("\nExample:\n  "), "{help}");
        }
        let subcommands = command.get_subcommands_mut();
        subcommands
            .filter(|subcommand| subcommand.get_name() != "help")
            .for_each(assert_help);
    }

    #[test]
    fn the_help_of_every_command_fits_80_columns_and_has_an_example() {
        let mut command = Cli::command();
        command.build();
        assert_help(&mut command);
    }
}
