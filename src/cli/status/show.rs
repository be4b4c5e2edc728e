//! The status as tables.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use anstyle::Style;

use crate::cli::print::{columns, table};
use crate::cli::style::{DIM, ODD, PLAIN, STRONG};
use crate::model::device::Health;
use crate::observe::status::{
    DeviceStatus, FaultStatus, HeldFrom, HolderStatus, ResourceStatus, Status,
};
use crate::util::sanitize::sanitize;

/// Prints a line about the daemon, a table of resources, and notes on what needs attention.
pub fn all(status: &Status, now: SystemTime, out: &mut impl Write) -> io::Result<()> {
    let count = status.resources.len();
    let ready = status
        .resources
        .iter()
        .filter(|resource| resource.ready)
        .count();
    let (version, node) = (&status.version, &status.node);
    let up = age(&status.started, now);
    let stopping = if status.stopping { ", stopping" } else { "" };
    writeln!(
        out,
        "{STRONG}simple-device-plugin {version} on node {node}{STRONG:#}: {ready} of {count} resources ready, up {up}{stopping}"
    )?;
    if !status.resources.is_empty() {
        writeln!(out)?;
        let rows = status.resources.iter().map(|resource| row(resource, now));
        table(out, "RESOURCE\tSTATE\tFOR\tHEALTHY\tHELD", rows)?;
    }
    let resources = || status.resources.iter();
    let waiting = resources().filter_map(waiting_note);
    let overridden = resources().filter_map(overrides_note);
    let removing = resources().filter_map(removal_note);
    let faulty = resources().filter_map(faults_note);
    let notes = waiting.chain(overridden).chain(removing).chain(faulty);
    let notes: Vec<String> = notes.collect();
    if !notes.is_empty() {
        writeln!(out)?;
    }
    for line in notes {
        writeln!(out, "{line}")?;
    }
    writeln!(out)?;
    writeln!(out, "{DIM}{}{DIM:#}", held_note(status, now))?;
    config_warning(status, now, out)
}

fn row(resource: &ResourceStatus, now: SystemTime) -> (Style, String) {
    let (name, state) = (&resource.name, &resource.state);
    let (since, healthy, held) = (age(&resource.since, now), resource.healthy, held(resource));
    let devices = healthy + resource.unhealthy;
    let row = format!("{name}\t{state}\t{since}\t{healthy} of {devices}\t{held}");
    (if resource.ready { PLAIN } else { ODD }, row)
}

/// The number of held devices, or `?` if it is unknown.
fn held(resource: &ResourceStatus) -> String {
    resource
        .held
        .map_or("?".to_owned(), |held| held.to_string())
}

fn waiting_note(resource: &ResourceStatus) -> Option<String> {
    Some(format!(
        "{} {}",
        resource.name,
        resource.waits_for.as_ref()?
    ))
}

fn overrides_note(resource: &ResourceStatus) -> Option<String> {
    let (name, overrides) = (&resource.name, overrides(resource)?);
    Some(format!(
        "{name} has overrides: {overrides}; `reset {name}` removes them"
    ))
}

fn overrides(resource: &ResourceStatus) -> Option<String> {
    let overrides = resource.overrides.as_ref()?;
    let devices = overrides.devices.map(|count| match count {
        1 => "scaled to 1 device".to_owned(),
        count => format!("scaled to {count} devices"),
    });
    let health = (overrides.health > 0).then(|| match overrides.health {
        1 => "health of 1 device set".to_owned(),
        count => format!("health of {count} devices set"),
    });
    let both: Vec<String> = devices.into_iter().chain(health).collect();
    Some(both.join(", "))
}

fn removal_note(resource: &ResourceStatus) -> Option<String> {
    let name = &resource.name;
    match resource.pending_removal {
        0 => None,
        1 => Some(format!(
            "{name} has 1 device pending removal; see `status {name}`"
        )),
        count => Some(format!(
            "{name} has {count} devices pending removal; see `status {name}`"
        )),
    }
}

fn faults_note(resource: &ResourceStatus) -> Option<String> {
    let name = &resource.name;
    match resource
        .faults
        .iter()
        .filter(|fault| !fault.exhausted)
        .count()
    {
        0 => None,
        1 => Some(format!("{name} has 1 fault; see `fault list`")),
        count => Some(format!("{name} has {count} faults; see `fault list`")),
    }
}

/// Explains how current the numbers of held devices are.
fn held_note(status: &Status, now: SystemTime) -> String {
    if status.held_from == Some(HeldFrom::PodResources) {
        return "held: live, from the kubelet's pod-resources API".to_owned();
    }
    let checkpoint = &status.checkpoint;
    match (&checkpoint.as_of, &checkpoint.error) {
        (Some(at), _) => {
            let age = age(at, now);
            format!(
                "held: from the kubelet's checkpoint, written {age} ago; may include deleted pods"
            )
        }
        (None, Some(error)) => {
            format!("held: unknown ({error})")
        }
        (None, None) => "held: unknown".to_owned(),
    }
}

fn config_warning(status: &Status, now: SystemTime, out: &mut impl Write) -> io::Result<()> {
    let Some(config) = &status.config else {
        return Ok(());
    };
    let Some(errors) = &config.errors else {
        return Ok(());
    };
    let (duration, what) = (age(&errors.at, now), &errors.what);
    writeln!(
        out,
        "\n{ODD}warning:{ODD:#} the config file has had errors for {duration}, and the previous configuration stays in use: {what}"
    )
}

/// Prints one resource and its devices.
pub fn resource(
    status: &Status,
    resource: &ResourceStatus,
    now: SystemTime,
    out: &mut impl Write,
) -> io::Result<()> {
    let (name, state, since) = (&resource.name, &resource.state, age(&resource.since, now));
    writeln!(out, "{STRONG}{name}{STRONG:#} {state} for {since}")?;
    let rows = details(resource, now).into_iter();
    columns(
        out,
        rows.map(|(label, value)| format!("  {label}\t{value}")),
    )?;
    let mut devices: Vec<&DeviceStatus> = resource.devices.iter().flatten().collect();
    devices.sort_by(|a, b| a.numa.cmp(&b.numa));
    if !devices.is_empty() {
        writeln!(out)?;
        table(
            out,
            "NUMA\tDEVICE\tHEALTH\tHELD BY",
            devices.into_iter().map(device),
        )?;
    }
    writeln!(out, "\n{DIM}{}{DIM:#}", held_note(status, now))?;
    config_warning(status, now, out)
}

/// The labels and values above the table of devices.
fn details(resource: &ResourceStatus, now: SystemTime) -> Vec<(&'static str, String)> {
    let mut rows = vec![("endpoint", resource.endpoint.clone())];
    if let Some(waits_for) = &resource.waits_for {
        rows.push(("not ready", waits_for.clone()));
    }
    if let Some(overrides) = overrides(resource) {
        rows.push(("overrides", overrides));
    }
    let mut label = "faults";
    for fault in &resource.faults {
        rows.push((
            label,
            format!("{}, injected {}", fault.fault, injected(fault)),
        ));
        label = "";
    }
    if !resource.faults_injected.is_empty() {
        rows.push(("injected", counts(&resource.faults_injected)));
    }
    rows.push(("registrations", counts(&resource.registrations)));
    rows.push(("restarts", counts(&resource.restarts)));
    if let Some(error) = &resource.last_error {
        rows.push((
            "last error",
            format!("{} ago: {}", age(&error.at, now), error.what),
        ));
    }
    let (healthy, held) = (resource.healthy, held(resource));
    let count = healthy + resource.unhealthy;
    rows.push((
        "devices",
        format!("{count}, {healthy} healthy, {held} held"),
    ));
    let mut label = "removing";
    for (waits_for, count) in removing(resource) {
        let wait = if count == 1 {
            "device waits"
        } else {
            "devices wait"
        };
        rows.push((label, format!("{count} {wait} for {waits_for}")));
        label = "";
    }
    rows
}

/// Counts the devices that are pending removal by what delays their removal.
fn removing(resource: &ResourceStatus) -> BTreeMap<&str, usize> {
    let mut removing = BTreeMap::new();
    let devices = resource.devices.iter().flatten();
    for waits_for in devices.filter_map(|device| device.waits_for.as_deref()) {
        *removing.entry(waits_for).or_default() += 1;
    }
    removing
}

fn device(device: &DeviceStatus) -> (Style, String) {
    let numa: Vec<String> = device.numa.iter().map(u16::to_string).collect();
    let numa = if numa.is_empty() {
        "-".to_owned()
    } else {
        numa.join(",")
    };
    let overridden = if device.health_overridden {
        ", overridden"
    } else {
        ""
    };
    let by_fault = if device.fault_unhealthy {
        ", by a fault"
    } else {
        ""
    };
    let removing = if device.removing {
        ", pending removal"
    } else {
        ""
    };
    let held_by: Vec<String> = device.held_by.iter().map(holder).collect();
    let row = format!(
        "{numa}\t{}\t{}{overridden}{by_fault}{removing}\t{}",
        device.id,
        device.health.as_str(),
        held_by.join(" ")
    );
    let style = if device.health == Health::Healthy {
        PLAIN
    } else {
        ODD
    };
    (style, row)
}

fn holder(holder: &HolderStatus) -> String {
    sanitize(&match holder {
        HolderStatus::Live(by) => format!("{}/{}/{}", by.namespace, by.pod, by.container),
        HolderStatus::Checkpointed(by) => format!("{}/{}", by.pod_uid, by.container),
    })
}

/// How often the fault was injected, and how often it was evaluated.
pub fn injected(fault: &FaultStatus) -> String {
    let exhausted = if fault.exhausted { ", exhausted" } else { "" };
    format!("{} of {}{exhausted}", fault.injected, fault.seen)
}

fn counts(counts: &BTreeMap<String, u64>) -> String {
    let counts = counts.iter().map(|(name, count)| format!("{count} {name}"));
    let counts: Vec<String> = counts.collect();
    if counts.is_empty() {
        "none".to_owned()
    } else {
        counts.join(", ")
    }
}

/// How long ago `at` was, in one unit as in kubectl, or `?` if `at` is not a valid time.
fn age(at: &str, now: SystemTime) -> String {
    let Ok(at) = humantime::parse_rfc3339(at) else {
        return "?".to_owned();
    };
    let seconds = now.duration_since(at).unwrap_or(Duration::ZERO).as_secs();
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_one_unit() {
        let now = humantime::parse_rfc3339("2026-11-21T12:00:00Z").unwrap();
        for (at, expected) in [
            ("2026-11-21T12:00:01Z", "0s"),
            ("2026-11-21T11:58:01Z", "119s"),
            ("2026-11-21T11:58:00Z", "2m"),
            ("2026-11-21T10:00:00Z", "2h"),
            ("2026-11-19T12:00:00Z", "2d"),
            ("yesterday", "?"),
        ] {
            assert_eq!(age(at, now), expected, "{at}");
        }
    }
}
