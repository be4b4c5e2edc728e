//! The program `kubelet-sim`: a kubelet's device manager without a cluster, for the authors of device plugins.

mod demo;
mod print;
mod repl;
mod screen;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Parser, Subcommand};
use kubelet_sim::{Behavior, KubeletSettings, TopologyPolicy};
use simple_device_plugin::cli::logging;
use simple_device_plugin::cli::signals::until_signal;
use simple_device_plugin::config::{Environment, Logs};

/// A kubelet's device manager without a cluster, with the traps of the real one.
#[derive(Debug, Parser)]
#[command(version)]
struct SimArgs {
    #[command(subcommand)]
    command: SimCommand,
}

#[derive(Debug, Subcommand)]
enum SimCommand {
    /// Run a kubelet for device plugins of any kind: show what they do, admit pods and restart as the
    /// lines of standard input say
    #[command(after_help = repl::help())]
    Run {
        /// Its device plugin directory; every socket in it is removed, as a kubelet does
        #[arg(long)]
        dir: PathBuf,
        /// Which kubelet to be; newer: one after 1.36.2
        #[arg(long = "behavior", value_name = "BEHAVIOR", default_value = "1.36", value_parser = behavior())]
        behavior: Behavior,
        /// The topology manager's policy; with single-numa-node, pods whose devices cannot come from one
        /// NUMA node get TopologyAffinityError
        #[arg(long, default_value = "none", value_parser = topology_policy())]
        topology_policy: TopologyPolicy,
    },
    /// Run a device plugin on a kubelet in a directory of its own: let it register, give devices to a pod,
    /// restart the kubelet
    Demo {
        /// Stay up until Ctrl-C
        #[arg(long)]
        hold: bool,
        /// The plugin and its arguments, in which {dir} is the kubelet's directory, as is the variable
        /// DEVICE_PLUGIN_PATH [default: simple-device-plugin]
        #[arg(last = true)]
        command: Vec<OsString>,
    },
}

fn behavior() -> impl TypedValueParser<Value = Behavior> {
    PossibleValuesParser::new(["1.36", "newer"]).map(|name| match &*name {
        "newer" => Behavior::Newer,
        _ => Behavior::V1_36,
    })
}

fn topology_policy() -> impl TypedValueParser<Value = TopologyPolicy> {
    PossibleValuesParser::new(["none", "single-numa-node"]).map(|name| match &*name {
        "single-numa-node" => TopologyPolicy::SingleNumaNode,
        _ => TopologyPolicy::None,
    })
}

fn main() -> ExitCode {
    match run(SimArgs::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // If stderr is closed, the error cannot be reported.
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: SimCommand) -> anyhow::Result<()> {
    // No variable that is read here has a name that is not UTF-8.
    let utf8 = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value));
    let environment: Environment = std::env::vars_os().filter_map(utf8).collect();
    let _logging = logging::start(&Logs::from_variables(&environment)?, "warn,h2=error")?;
    match command {
        SimCommand::Run {
            dir,
            behavior,
            topology_policy,
        } => {
            let settings = KubeletSettings {
                behavior,
                topology_policy,
                ..KubeletSettings::new(dir)
            };
            until_signal(|signals| repl::run(settings, signals.stop))
        }
        SimCommand::Demo { hold, command } => until_signal(|signals| {
            demo::run(environment, command, hold, screen::stdout(), signals.stop)
        }),
    }
}

/// Whether the error is that the reader of the output ended, as `head` does. It is no failure.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
