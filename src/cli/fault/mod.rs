//! The command `fault`, which injects, lists and clears faults of the running daemon.

#[cfg(test)]
mod tests;

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anstyle::Style;
use anyhow::Context;
use clap::{Arg, ArgGroup, Args, Subcommand};
use serde::Serialize;

use crate::cli::status::{fetch, injected};
use crate::cli::style::{ODD, PLAIN};
use crate::cli::{print, request};
use crate::control::Request;
use crate::fault::values::{self, ErrorCode, Probability, Times};
use crate::fault::{CallFault, Fault, FaultKind, Flap, Schedule};
use crate::observe::status::{FaultStatus, Status, WithDevices};

#[derive(Debug, Subcommand)]
pub(crate) enum FaultCommand {
    #[command(flatten)]
    Inject(InjectCommand),
    /// List faults and how often each was injected
    #[command(after_help = "Example:\n  simple-device-plugin fault list example.com/gpu")]
    List {
        /// Name of the resource [default: all resources]
        resource: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Clear all faults, including configured ones
    #[command(after_help = "Example:\n  simple-device-plugin fault clear example.com/gpu")]
    Clear {
        /// Name of the resource [default: all resources]
        resource: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// One subcommand for each kind of fault.
#[derive(Debug, Subcommand)]
pub(crate) enum InjectCommand {
    /// Delay or fail Allocate calls
    #[command(mut_args(schedule_help("calls", "1")))]
    #[command(override_usage = call_usage("allocate"), after_help = call_help(
        "allocate example.com/gpu --delay 10s",
        "While a call is delayed, the kubelet admits no other pod on the node.",
    ))]
    Allocate(FaultArguments<CallFlags>),
    /// Delay or fail GetPreferredAllocation calls
    #[command(mut_args(schedule_help("calls", "1")))]
    #[command(override_usage = call_usage("preferred"), after_help = call_help(
        "preferred example.com/gpu --error INTERNAL",
        "The kubelet makes this call only for resources with preferredAllocation.",
    ))]
    Preferred(FaultArguments<CallFlags>),
    /// Delay or fail PreStartContainer calls
    #[command(mut_args(schedule_help("calls", "1")))]
    #[command(override_usage = call_usage("pre-start"), after_help = call_help(
        "pre-start example.com/gpu --error INTERNAL",
        "The kubelet makes this call only for resources with preStart.\nThe kubelet's timeout is 30s.",
    ))]
    PreStart(FaultArguments<CallFlags>),
    /// Delay or fail GetDevicePluginOptions calls
    #[command(mut_args(schedule_help("calls", "1")))]
    #[command(override_usage = call_usage("options"), after_help = call_help(
        "options example.com/gpu --delay 20s",
        "The kubelet makes this call at each registration, which fails after 15s.",
    ))]
    Options(FaultArguments<CallFlags>),
    /// Close the ListAndWatch stream
    #[command(mut_args(schedule_help("streams", "1")))]
    #[command(
        after_help = "Example:\n  simple-device-plugin fault stream example.com/gpu --times 3"
    )]
    Stream(FaultArguments<()>),
    /// Suspend the registration with the kubelet
    #[command(mut_args(schedule_help("registrations", "1")))]
    #[command(
        after_help = "Example:\n  simple-device-plugin fault registration example.com/gpu --for 5m"
    )]
    Registration(FaultArguments<RegistrationFlags>),
    /// Make devices Unhealthy and Healthy again, repeatedly
    #[command(mut_args(schedule_help("Unhealthy phases", "unlimited")))]
    #[command(
        override_usage = "simple-device-plugin fault health RESOURCE DEVICES --up TIME --down TIME
       [OPTIONS]",
        after_help = "Example:
  simple-device-plugin fault health example.com/gpu 0-1 --up 30s --down 15s

The devices flap until the fault is cleared or --times is reached."
    )]
    Health(FaultArguments<FlapFlags>),
}

/// Returns the usage on two lines, since clap's own is longer than 80 columns.
fn call_usage(kind: &str) -> String {
    format!(
        "simple-device-plugin fault {kind} RESOURCE --delay TIME [OPTIONS]
       simple-device-plugin fault {kind} RESOURCE --error CODE [OPTIONS]"
    )
}

fn call_help(example: &str, note: &str) -> String {
    format!(
        "Example:
  simple-device-plugin fault {example}

{note}
All delays of the daemon together are limited to 120s in any 5 minutes."
    )
}

/// Changes the help of the schedule's flags to say what this kind of fault counts, and its default of `--times`.
fn schedule_help(counted: &'static str, default_times: &'static str) -> impl FnMut(Arg) -> Arg {
    move |arg| match arg.get_id().as_str() {
        "after" => arg.help(format!("Skip the first N {counted}")),
        "times" => arg.help(format!(
            "Stop after N injections [default: {default_times}]"
        )),
        _ => arg,
    }
}

#[derive(Debug, Args)]
pub(crate) struct FaultArguments<K: Args> {
    /// Name of the resource
    resource: String,
    #[command(flatten)]
    kind: K,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    schedule: ScheduleFlags,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").args(["delay", "error"]).required(true))]
pub(crate) struct CallFlags {
    /// Delay the response by 10ms to 60s
    #[arg(long, value_name = "TIME", value_parser = expecting(values::delay))]
    delay: Option<Duration>,
    /// Return this gRPC status code, such as UNAVAILABLE
    #[arg(long, value_name = "CODE", value_parser = expecting(ErrorCode::parse))]
    error: Option<ErrorCode>,
    /// Set the message of the error [default: injected fault]
    #[arg(
        long,
        value_name = "TEXT",
        conflicts_with = "delay",
        allow_hyphen_values = true
    )]
    #[arg(value_parser = expecting(values::message))]
    message: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RegistrationFlags {
    /// Suspend for 1ms to 24h [default: until cleared]
    #[arg(long = "for", value_name = "TIME", value_parser = expecting(values::suspension))]
    duration: Option<Duration>,
}

#[derive(Debug, Args)]
pub(crate) struct FlapFlags {
    /// Device IDs, indexes or ranges, such as 0,2-3; or `all`
    #[arg(value_parser = expecting(values::devices))]
    devices: String,
    /// Keep the devices Healthy first, for 1s to 24h
    #[arg(long, value_name = "TIME", value_parser = expecting(values::phase))]
    up: Duration,
    /// Keep them Unhealthy after that, for 1s to 24h
    #[arg(long, value_name = "TIME", value_parser = expecting(values::phase))]
    down: Duration,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Schedule")]
struct ScheduleFlags {
    // `schedule_help` replaces the help of `after` and `times`.
    /// Skip the first N
    #[arg(long, value_name = "N", default_value_t)]
    after: u64,
    /// Inject with probability P, 0 to 1 [default: 1]
    #[arg(long, value_name = "P", value_parser = expecting(Probability::parse))]
    probability: Option<Probability>,
    /// Stop after N injections
    #[arg(long, value_name = "N|unlimited", value_parser = expecting(Times::parse))]
    times: Option<Times>,
    /// Seed the random selection [default: random]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

/// Turns what a parser expected into an error text. clap prints it after the invalid value.
fn expecting<T>(
    parse: fn(&str) -> Result<T, String>,
) -> impl Fn(&str) -> Result<T, String> + Clone {
    move |text| parse(text).map_err(|expected| format!("expected {expected}"))
}

pub fn run(socket: &Path, command: FaultCommand, out: &mut impl Write) -> anyhow::Result<()> {
    let (request, json) = match command {
        FaultCommand::Inject(command) => command.request()?,
        FaultCommand::List { resource, json } => return list(socket, resource, json, out),
        FaultCommand::Clear { resource, json } => {
            let clear = |resource| Request::Clear { resource };
            (resource.map_or(Request::ClearAll {}, clear), json)
        }
    };
    request::run(socket, &request, json, out)
}

impl InjectCommand {
    /// Returns the request, and whether to print the reply as JSON.
    fn request(self) -> anyhow::Result<(Request, bool)> {
        match self {
            Self::Allocate(arguments) => arguments.call(FaultKind::Allocate),
            Self::Preferred(arguments) => arguments.call(FaultKind::Preferred),
            Self::PreStart(arguments) => arguments.call(FaultKind::PreStart),
            Self::Options(arguments) => arguments.call(FaultKind::Options),
            Self::Stream(arguments) => arguments.request(|()| Ok(FaultKind::Stream)),
            Self::Registration(arguments) => arguments
                .request(|RegistrationFlags { duration }| Ok(FaultKind::Registration { duration })),
            Self::Health(arguments) => arguments.request(|FlapFlags { devices, up, down }| {
                Ok(FaultKind::Health(Flap { devices, up, down }))
            }),
        }
    }
}

impl<K: Args> FaultArguments<K> {
    fn request(
        self,
        kind: impl FnOnce(K) -> anyhow::Result<FaultKind>,
    ) -> anyhow::Result<(Request, bool)> {
        let fault = Fault {
            on: kind(self.kind)?,
            schedule: Schedule {
                probability: self.schedule.probability,
                after: self.schedule.after,
                times: self.schedule.times,
                seed: self.schedule.seed,
            },
        };
        let request = Request::Fault {
            resource: self.resource,
            fault: Box::new(fault),
        };
        Ok((request, self.json))
    }
}

impl FaultArguments<CallFlags> {
    fn call(self, kind: impl FnOnce(CallFault) -> FaultKind) -> anyhow::Result<(Request, bool)> {
        self.request(
            |CallFlags {
                 delay,
                 error,
                 message,
             }| {
                let fault = CallFault::new(delay, error, message);
                fault
                    .map(kind)
                    .context("expected either --delay or --error")
            },
        )
    }
}

fn list(
    socket: &Path,
    resource: Option<String>,
    json: bool,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let resources = resource.map_or(WithDevices::None, WithDevices::Of);
    let status = fetch(socket, resources, json, out)?;
    if json {
        let faults: Vec<ListedFault> = listed(&status).collect();
        return Ok(writeln!(out, "{}", serde_json::to_string_pretty(&faults)?)?);
    }
    let rows: Vec<(Style, String)> = listed(&status).map(|listed| listed.row()).collect();
    if rows.is_empty() {
        return Ok(writeln!(out, "no faults")?);
    }
    Ok(print::table(
        out,
        "RESOURCE\tINJECTED\tSET BY\tFAULT",
        rows,
    )?)
}

fn listed(status: &Status) -> impl Iterator<Item = ListedFault<'_>> {
    status.resources.iter().flat_map(|resource| {
        let resource_name = &*resource.name;
        resource.faults.iter().map(move |status| ListedFault {
            resource: resource_name,
            status,
        })
    })
}

#[derive(Serialize)]
struct ListedFault<'a> {
    resource: &'a str,
    #[serde(flatten)]
    status: &'a FaultStatus,
}

impl ListedFault<'_> {
    fn row(&self) -> (Style, String) {
        let (resource, fault) = (self.resource, &self.status.fault);
        let set_by = if self.status.set_at_run_time {
            "command"
        } else {
            "configuration"
        };
        let injected = injected(self.status);
        let row = format!("{resource}\t{injected}\t{set_by}\t{fault}");
        (if self.status.injected > 0 { ODD } else { PLAIN }, row)
    }
}
