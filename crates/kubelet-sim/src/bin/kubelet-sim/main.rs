//! `kubelet-sim`: a simulated kubelet for authors of device plugins.

mod conformance;
mod demo;
mod print;
mod repl;
mod screen;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Parser, Subcommand};
use kubelet_sim::{Behavior, KubeletSettings, TopologyPolicy};
use simple_device_plugin::cli::logging;
use simple_device_plugin::cli::signals::{ProcessSignals, until_signal};
use simple_device_plugin::config::{Environment, Logs};

use conformance::ConformanceArgs;

/// Test a device plugin on a simulated kubelet, without a cluster
#[derive(Debug, Parser)]
#[command(version, after_help = "Example:\n  kubelet-sim run --dir /tmp/plugins")]
struct SimArgs {
    #[command(subcommand)]
    command: SimCommand,
}

#[derive(Debug, Subcommand)]
enum SimCommand {
    /// Run a simulated kubelet that reads commands from standard input
    #[command(after_help = repl::help(), next_line_help = true)]
    Run {
        /// The device plugin directory; the kubelet removes every socket in it
        #[arg(long)]
        dir: PathBuf,
        /// The kubelet version to simulate; newer means later than 1.36.2
        /// [default: 1.36] [possible values: 1.36, newer]
        #[arg(
            long = "behavior",
            value_name = "BEHAVIOR",
            default_value = "1.36",
            value_parser = behavior(),
            verbatim_doc_comment,
            hide_default_value = true,
            hide_possible_values = true
        )]
        behavior: Behavior,
        /// Reject a pod and cancel its calls to plugins when its admission takes
        /// this long [default: no limit for 1.36, 30 for newer]
        #[arg(
            long,
            value_name = "SECONDS",
            value_parser = clap::value_parser!(u64).range(1..=86_400),
            verbatim_doc_comment
        )]
        admission_timeout: Option<u64>,
        /// Update the Node object after this time; a real kubelet does so every
        /// 10 seconds [default: 0, after each change]
        #[arg(
            long,
            value_name = "SECONDS",
            default_value = "0",
            value_parser = clap::value_parser!(u64).range(..=86_400),
            verbatim_doc_comment,
            hide_default_value = true
        )]
        node_status_period: u64,
        /// The topology manager policy, for each container; restricted and
        /// single-numa-node reject pods with TopologyAffinityError
        /// [default: none] [possible values: none, best-effort, restricted,
        /// single-numa-node]
        #[arg(
            long,
            value_name = "POLICY",
            default_value = "none",
            value_parser = topology_policy(),
            verbatim_doc_comment,
            hide_default_value = true,
            hide_possible_values = true
        )]
        topology_policy: TopologyPolicy,
        /// The number of NUMA nodes of the host, 1 to 8
        /// [default: node 0 and the nodes that devices name]
        #[arg(
            long,
            value_name = "COUNT",
            value_parser = clap::value_parser!(u8).range(1..=8),
            verbatim_doc_comment
        )]
        numa_nodes: Option<u8>,
    },
    /// Show registration, allocation and a kubelet restart of a plugin
    #[command(after_help = "Example:\n  kubelet-sim demo -- ./my-plugin --plugin-dir {dir}")]
    Demo {
        /// Keep the plugin and the kubelet running until Ctrl-C
        #[arg(long)]
        hold: bool,
        /// The plugin and its arguments; {dir} and the variable
        /// DEVICE_PLUGIN_PATH are set to the kubelet's directory
        /// [default: simple-device-plugin]
        #[arg(last = true, verbatim_doc_comment)]
        command: Vec<OsString>,
    },
    /// Check what a real kubelet would do to a plugin
    #[command(
        next_line_help = true,
        after_help = "Exit codes:\n  0  every MUST holds; with --strict, every SHOULD too\n  1  otherwise\n  \
                      2  wrong command line\n\nExample:\n  kubelet-sim conformance -- ./my-plugin --plugin-dir {dir}"
    )]
    Conformance(ConformanceArgs),
}

fn behavior() -> impl TypedValueParser<Value = Behavior> {
    PossibleValuesParser::new(["1.36", "newer"]).map(|name| match &*name {
        "newer" => Behavior::Newer,
        _ => Behavior::V1_36,
    })
}

fn topology_policy() -> impl TypedValueParser<Value = TopologyPolicy> {
    let names = ["none", "best-effort", "restricted", "single-numa-node"];
    PossibleValuesParser::new(names).map(|name| match &*name {
        "best-effort" => TopologyPolicy::BestEffort,
        "restricted" => TopologyPolicy::Restricted,
        "single-numa-node" => TopologyPolicy::SingleNumaNode,
        _ => TopologyPolicy::None,
    })
}

fn main() -> ExitCode {
    match run(SimArgs::parse().command) {
        Ok(exit_code) => exit_code,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // If stderr is closed, the error cannot be reported.
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: SimCommand) -> anyhow::Result<ExitCode> {
    // Variables whose names are not UTF-8 are skipped: none of them is read here.
    let utf8 = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value));
    let environment: Environment = std::env::vars_os().filter_map(utf8).collect();
    let _logging = logging::start(&Logs::from_variables(&environment)?, "warn,h2=error")?;
    match command {
        SimCommand::Run {
            dir,
            behavior,
            admission_timeout,
            node_status_period,
            topology_policy,
            numa_nodes,
        } => {
            let settings = KubeletSettings {
                behavior,
                admission_timeout: admission_timeout.map(Duration::from_secs),
                node_status_period: Duration::from_secs(node_status_period),
                topology_policy,
                numa_nodes: numa_nodes.map(usize::from),
                ..KubeletSettings::new(dir)
            };
            until_signal(|signals| repl::run(settings, signals.stop))?;
        }
        SimCommand::Demo { hold, command } => until_signal(|signals| {
            demo::run(environment, command, hold, screen::stdout(), signals.stop)
        })?,
        SimCommand::Conformance(arguments) => return run_conformance(arguments),
    }
    Ok(ExitCode::SUCCESS)
}

fn run_conformance(arguments: ConformanceArgs) -> anyhow::Result<ExitCode> {
    let mut conforms = false;
    let result = until_signal(async |signals| {
        let ProcessSignals { stop, hangup } = signals;
        let evaluated = conformance::conformance(arguments, screen::stdout(), stop);
        conforms = tokio::select! {
            conforms = evaluated => conforms?,
            // The terminal was closed.
            () = hangup.notified() => bail!("interrupted"),
        };
        Ok(())
    });
    match result {
        // The checks did not end, so this is no success.
        Err(error) if is_closed_pipe(&error) => Ok(ExitCode::FAILURE),
        Err(error) => Err(error),
        Ok(()) if conforms => Ok(ExitCode::SUCCESS),
        Ok(()) => Ok(ExitCode::FAILURE),
    }
}

/// Returns whether the reader of standard output closed the pipe, as `head` does. That is not a failure.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
