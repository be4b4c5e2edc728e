//! The command `check`, which validates the configuration and prints the resulting resources.

mod json;
mod yaml;

use std::io::{self, Write};

use anyhow::bail;
use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use super::print;
use super::style::{ODD, STRONG};
use crate::config::reload::configuration;
use crate::config::{Config, Environment, FileText, Host, by_node};
use crate::fault::Fault;
use crate::model::device::LIST_SIZE_MAX;
use crate::offer::resource::Resource;
use crate::util::sanitize::sanitize;

#[derive(Debug, Args)]
pub(super) struct CheckArguments {
    /// Check the configuration of this node instead of NODE_NAME
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    node: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print the equivalent config file, for every node
    #[arg(long, conflicts_with_all = ["json", "node"])]
    yaml: bool,
}

/// Prints every resource of the node.
pub fn run(
    mut environment: Environment,
    mut host: Host,
    arguments: CheckArguments,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    if let Some(node) = arguments.node {
        environment.insert("NODE_NAME".to_owned(), node.into());
        // The NUMA nodes of this host say nothing about another node.
        host.numa = None;
    }
    if arguments.yaml {
        let mut file = Vec::new();
        yaml::print(&by_node(&environment, &host)?, &mut file)?;
        if file.len() > FileText::SIZE_MAX {
            let (size, most) = (file.len(), FileText::SIZE_MAX);
            bail!(
                "the config file would have {size} bytes, but at most {most} are allowed: use fewer resources, or variables for \
                 fewer nodes"
            );
        }
        return Ok(out.write_all(&file)?);
    }
    let config = configuration(&environment, &host)?;
    let printed = if arguments.json {
        json::print(&config, out)
    } else {
        print_tables(&config, out)
    };
    Ok(printed?)
}

fn print_tables(config: &Config, out: &mut impl Write) -> io::Result<()> {
    let count = match config.plugins.resources.len() {
        1 => "1 resource".to_owned(),
        count => format!("{count} resources"),
    };
    let node = sanitize(&config.node);
    let dir = sanitize(&config.plugin_dir.display().to_string());
    writeln!(out, "{count} on node {node} in {dir}")?;
    for resource in &config.plugins.resources {
        writeln!(out, "\n{STRONG}{}{STRONG:#}", resource.name)?;
        let rows = rows(resource, config.plugins.faults.of(&resource.name)).into_iter();
        print::columns(
            out,
            rows.map(|(label, value)| format!("  {label}\t{}", sanitize(&value))),
        )?;
    }
    for warning in config.all_warnings() {
        writeln!(out, "\n{ODD}warning:{ODD:#} {warning}")?;
    }
    Ok(())
}

fn rows(resource: &Resource, faults: &[Fault]) -> Vec<(&'static str, String)> {
    let devices = &resource.devices;
    let mut rows = vec![
        ("socket", resource.socket.to_string()),
        ("devices", device_range(resource)),
        ("NUMA nodes", numa_nodes(resource)),
        ("preference", resource.preference.as_str().to_owned()),
        (
            "list size",
            format!("{} of at most {LIST_SIZE_MAX} bytes", devices.list_size()),
        ),
    ];
    if resource.pre_start {
        rows.push(("pre-start", "yes".to_owned()));
    }
    let mut label = "faults";
    for fault in faults {
        rows.push((label, fault.to_string()));
        label = "";
    }
    let Some(first) = devices.as_slice().first() else {
        return rows;
    };
    let mut label = "one device gives";
    let mut outputs = print::outputs(&resource.outputs.of(&[first]));
    if outputs.is_empty() {
        outputs.push(("nothing", "(no outputs are configured)".to_owned()));
    }
    for (kind, value) in outputs {
        rows.push((label, format!("{kind} {value}")));
        label = "";
    }
    if let Some(paths) = host_paths(resource) {
        rows.push(("host paths", paths));
    }
    rows
}

/// Returns the number of devices, and the first and the last ID.
fn device_range(resource: &Resource) -> String {
    let range = match resource.devices.as_slice() {
        [] => "0".to_owned(),
        [only] => format!("1: {}", only.id),
        [first, .., last] => {
            let count = resource.devices.len();
            format!("{count}: {} … {}", first.id, last.id)
        }
    };
    let unhealthy = resource
        .devices
        .as_slice()
        .iter()
        .filter(|device| !device.is_allocatable())
        .count();
    if unhealthy == 0 {
        range
    } else {
        format!("{range}, {unhealthy} Unhealthy")
    }
}

/// Returns the number of devices on each NUMA node.
fn numa_nodes(resource: &Resource) -> String {
    let mut counts = std::collections::BTreeMap::<u16, usize>::new();
    for node in resource
        .devices
        .as_slice()
        .iter()
        .flat_map(|device| device.numa.iter())
    {
        *counts.entry(*node).or_default() += 1;
    }
    if counts.is_empty() {
        return "no topology".to_owned();
    }
    let each = counts
        .iter()
        .map(|(node, count)| format!("{count} on node {node}"));
    each.collect::<Vec<_>>().join(", ")
}

/// Returns the host paths of the first and the last device, which must exist on the node.
fn host_paths(resource: &Resource) -> Option<String> {
    let devices = resource.devices.as_slice();
    let paths = |device| {
        let outputs = resource.outputs.of(&[device]);
        let files = outputs.device_files.into_iter().map(|file| file.host_path);
        let mounts = outputs.mounts.into_iter().map(|mount| mount.host_path);
        files.chain(mounts).collect::<Vec<String>>()
    };
    let ranges = std::iter::zip(paths(devices.first()?), paths(devices.last()?));
    let mut ranges: Vec<String> = ranges
        .map(|(first, last)| {
            if first == last {
                first
            } else {
                format!("{first} … {last}")
            }
        })
        .collect();
    ranges.dedup();
    (!ranges.is_empty()).then(|| ranges.join(", "))
}
