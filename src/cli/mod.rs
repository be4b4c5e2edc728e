//! The commands of the program. None of them decides an exit code.

mod host;
mod logging;
mod signals;
mod style;
mod patient;
mod screen;
mod print;
mod check;
mod demo;
mod kubelet;
mod status;
mod by_hand;
mod fault;
mod manager;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::builder::{NonEmptyStringValueParser, PossibleValuesParser, TypedValueParser};
use clap::{Parser, Subcommand};

use crate::cli::host::this_machine;
use crate::cli::signals::until_signal;
use crate::config::{Environment, Logs, control_socket};
use crate::control::Request;
use crate::kubelet::{Behaviour, Settings, TopologyPolicy};

pub use screen::{Screen, stdout};

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
Its variables are RESOURCE_NAME, NUMBER_DEVICES, DEVICE_ID_PREFIX, ENV_PREFIX, ANNOTATION_PREFIX,
DEVICE_FILE_PREFIX, NUMA_NODES and more, as lists, by index and by node, or CONFIG_FILE names a
file that says more: see the README, and try
  RESOURCE_NAME=example.com/gpu NUMBER_DEVICES=4 simple-device-plugin check";

#[derive(Debug, Subcommand)]
enum Command {
    /// Show what the variables or the config file make, or every mistake in them; changes nothing
    Check {
        /// The view of this node instead of NODE_NAME's
        #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
        node: Option<String>,
        /// For programs and diffs
        #[arg(long)]
        json: bool,
    },
    /// Show how the program that runs here stands: its resources, or the devices of one and who holds them
    Status {
        /// This resource alone, with its devices
        resource: Option<String>,
        /// For programs: everything, as JSON
        #[arg(long)]
        json: bool,
    },
    #[command(flatten)]
    Ask(Request),
    /// Let something go wrong on purpose with a resource of the program that runs here, until `fault clear`,
    /// `config` or a restart
    Fault(fault::Arguments),
    /// Run it all on an embedded kubelet in a directory of its own: register, give devices to a pod,
    /// restart the kubelet
    Demo {
        /// Stay up until Ctrl-C
        #[arg(long)]
        hold: bool,
    },
    /// Run a kubelet for plugins of any kind, without a cluster: shows what they do, admits pods and
    /// restarts as the lines of standard input say
    #[command(after_help = kubelet::help())]
    Kubelet {
        /// Its device plugin directory; every socket in it is removed, as a kubelet does
        #[arg(long)]
        dir: PathBuf,
        /// Which kubelet to be; newer: one after 1.36.2
        #[arg(long, default_value = "1.36", value_parser = behaviour())]
        behaviour: Behaviour,
        /// The topology manager's policy; with single-numa-node, pods whose devices cannot come from one
        /// NUMA node get TopologyAffinityError
        #[arg(long, default_value = "none", value_parser = topology_policy())]
        topology_policy: TopologyPolicy,
    },
}

/// Where the program that runs here is asked.
fn control(environment: &Environment) -> anyhow::Result<PathBuf> {
    let socket = control_socket(environment)?;
    socket.context("CONTROL_SOCKET is empty: the program has no control socket")
}

fn behaviour() -> impl TypedValueParser<Value = Behaviour> {
    PossibleValuesParser::new(["1.36", "newer"]).map(|name| match &*name {
        "newer" => Behaviour::Newer,
        _ => Behaviour::V1_36,
    })
}

fn topology_policy() -> impl TypedValueParser<Value = TopologyPolicy> {
    PossibleValuesParser::new(["none", "single-numa-node"]).map(|name| match &*name {
        "single-numa-node" => TopologyPolicy::SingleNumaNode,
        _ => TopologyPolicy::None,
    })
}

impl Cli {
    /// Carries the command out with these variables; prints to `out`, logs to stderr.
    ///
    /// # Errors
    /// [`Mistakes`](crate::config::Mistakes) in the variables,
    /// [`DirReplaced`](crate::node::watcher::DirReplaced), or whatever else kept it from doing so.
    pub fn run(
        self,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
        out: &mut Screen<impl Write>,
    ) -> anyhow::Result<()> {
        // A name that is not UTF-8 is none of ours.
        let utf8 = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value));
        let environment: Environment = variables.into_iter().filter_map(utf8).collect();
        match self.command {
            None => until_signal(|asked| manager::run(environment, this_machine(), asked)),
            Some(Command::Check { node, json }) => {
                check::run(environment, this_machine(), node, json, out)
            }
            Some(Command::Status { resource, json }) => {
                let wanted = status::Wanted { resource, json };
                status::run(&control(&environment)?, &wanted, out)
            }
            Some(Command::Ask(request)) => by_hand::run(&control(&environment)?, &request, out),
            Some(Command::Fault(arguments)) => fault::run(&control(&environment)?, arguments, out),
            Some(Command::Demo { hold }) => {
                until_signal(|asked| demo::run(environment, this_machine(), hold, out, asked.stop))
            }
            Some(Command::Kubelet {
                dir,
                behaviour,
                topology_policy,
            }) => {
                let _logging =
                    logging::start(&Logs::from_variables(&environment)?, "warn,h2=error")?;
                let settings = Settings {
                    behaviour,
                    topology_policy,
                    ..Settings::new(dir)
                };
                until_signal(|asked| kubelet::run(settings, asked.stop))
            }
        }
    }
}
