//! How the commands show things: aligned columns, the node's resources, and what a container gets.

use std::fmt::Display;
use std::io::{self, Write};

use anstyle::Style;
use tabwriter::TabWriter;

use super::style::{DIM, ODD, PLAIN, STRONG};
use crate::api::v1beta1;
use crate::foreign::foreign;
use crate::kubelet::{Assignment, Node, Quantities};
use crate::model::allocation::Allocation;

/// Prints rows whose cells are separated by tabs, each column as wide as its widest cell.
pub fn columns<R: Display>(
    out: &mut impl Write,
    rows: impl IntoIterator<Item = R>,
) -> io::Result<()> {
    for line in aligned(rows)?.lines() {
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// Prints columns under a heading, each row in its style.
pub fn table(
    out: &mut impl Write,
    heading: &str,
    rows: impl IntoIterator<Item = (Style, String)>,
) -> io::Result<()> {
    let (mut styles, mut cells) = (vec![STRONG], vec![heading.to_owned()]);
    for (style, row) in rows {
        styles.push(style);
        cells.push(row);
    }
    let aligned = aligned(cells)?;
    for (style, line) in styles.iter().zip(aligned.lines()) {
        writeln!(out, "{style}{}{style:#}", line.trim_end())?;
    }
    Ok(())
}

fn aligned<R: Display>(rows: impl IntoIterator<Item = R>) -> io::Result<String> {
    let mut table = TabWriter::new(Vec::new()).padding(2);
    for row in rows {
        writeln!(table, "{row}")?;
    }
    table.flush()?;
    let aligned = table.into_inner();
    let aligned = aligned.map_err(|error| io::Error::other(error.to_string()))?;
    Ok(String::from_utf8_lossy(&aligned).into_owned())
}

/// The node's extended resources.
pub fn node(out: &mut impl Write, node: &Node) -> io::Result<()> {
    let rows = node.iter().map(|(resource, shown)| {
        let Quantities {
            capacity,
            allocatable,
        } = shown;
        let row = format!("{resource}\t{capacity}\t{allocatable}");
        (style(*shown), row)
    });
    table(out, "RESOURCE\tCAPACITY\tALLOCATABLE", rows)
}

fn style(shown: Quantities) -> Style {
    match (shown.capacity, shown.allocatable) {
        (0, _) => DIM,
        (capacity, allocatable) if allocatable < capacity => ODD,
        _ => PLAIN,
    }
}

/// What a pod's container gets, resource by resource.
pub fn assignments(out: &mut impl Write, got: &[Assignment]) -> io::Result<()> {
    let mut rows = Vec::new();
    for assignment in got {
        rows.push(format!("{}\t{}", assignment.resource, devices(assignment)));
        let given = given(&assignment.response).into_iter();
        rows.extend(given.map(|(what, value)| format!("  {what}\t{}", foreign(&value))));
    }
    columns(out, rows)
}

/// All that an answer to Allocate has.
fn given(response: &v1beta1::ContainerAllocateResponse) -> Vec<(&'static str, String)> {
    let mut rows = outputs(&Allocation::from(response.clone()));
    if rows.is_empty() {
        rows.push(("nothing", String::new()));
    }
    rows
}

/// So many devices are named; more are counted.
const DEVICES_NAMED: usize = 4;

/// The devices with their NUMA nodes.
pub fn devices(assignment: &Assignment) -> String {
    let by_node = assignment.devices.iter().map(|(node, ids)| {
        let named = ids.iter().take(DEVICES_NAMED).map(|id| foreign(id));
        let mut text = named.collect::<Vec<_>>().join(", ");
        if ids.len() > DEVICES_NAMED {
            text = format!("{text} and {} more", ids.len() - DEVICES_NAMED);
        }
        match node {
            -1 => text,
            node => format!("NUMA node {node}: {text}"),
        }
    });
    by_node.collect::<Vec<_>>().join("; ")
}

/// What a container gets, a row for each: what it is, and what it says.
pub fn outputs(allocation: &Allocation) -> Vec<(&'static str, String)> {
    let env = |(name, value): &(String, String)| ("env", format!("{name}={value}"));
    let annotation = |(name, value): &(String, String)| ("annotation", format!("{name}={value}"));
    let mut rows: Vec<(&str, String)> = allocation.envs.iter().map(env).collect();
    rows.extend(allocation.annotations.iter().map(annotation));
    rows.extend(allocation.device_files.iter().map(|file| {
        let (path, host, permissions) = (&file.container_path, &file.host_path, &file.permissions);
        (
            "device file",
            format!("{path} ({permissions}), the host's {host}"),
        )
    }));
    rows.extend(allocation.mounts.iter().map(|mount| {
        let access = if mount.read_only { "ro" } else { "rw" };
        let (path, host) = (&mount.container_path, &mount.host_path);
        ("mount", format!("{path} ({access}), the host's {host}"))
    }));
    let cdi = allocation.cdi_devices.iter();
    rows.extend(cdi.map(|name| ("CDI device", name.clone())));
    rows
}
