//! Tables of the node's resources and of device assignments.

use std::io::{self, Write};

use anstyle::Style;
use kubelet_sim::{Assignment, ContainerKind, NodeResources, Pod, Quantities};
use simple_device_plugin::api::v1beta1;
use simple_device_plugin::cli::print::{columns, outputs, table};
use simple_device_plugin::cli::style::{DIM, ODD, PLAIN};
use simple_device_plugin::model::allocation::Allocation;
use simple_device_plugin::util::sanitize::sanitize;

/// Prints the table of the node's extended resources.
pub(crate) fn print_node(out: &mut impl Write, node: &NodeResources) -> io::Result<()> {
    let rows = node.iter().map(|(resource, quantities)| {
        let Quantities {
            capacity,
            allocatable,
        } = quantities;
        let row = format!("{resource}\t{capacity}\t{allocatable}");
        (style(*quantities), row)
    });
    table(out, "RESOURCE\tCAPACITY\tALLOCATABLE", rows)
}

fn style(quantities: Quantities) -> Style {
    match (quantities.capacity, quantities.allocatable) {
        (0, _) => DIM,
        (capacity, allocatable) if allocatable < capacity => ODD,
        _ => PLAIN,
    }
}

/// Prints the devices of a pod's containers, and what each plugin's Allocate response adds to them. The containers are
/// named if there are several.
pub(crate) fn print_pod(
    out: &mut impl Write,
    pod: &Pod,
    assignments: &[Assignment],
) -> io::Result<()> {
    for container in pod.in_admission_order() {
        let held = assignments.iter().filter(|a| a.container == container.name);
        let held: Vec<&Assignment> = held.collect();
        if pod.containers.len() > 1 && !held.is_empty() {
            let kind = match container.kind {
                ContainerKind::Init => "init container",
                ContainerKind::Sidecar => "sidecar",
                ContainerKind::App => "container",
            };
            writeln!(out, "{kind} {}:", sanitize(&container.name))?;
        }
        print_assignments(out, &held)?;
    }
    Ok(())
}

fn print_assignments(out: &mut impl Write, assignments: &[&Assignment]) -> io::Result<()> {
    let mut rows = Vec::new();
    for assignment in assignments {
        rows.push(format!(
            "{}\t{}",
            assignment.resource,
            format_devices(assignment)
        ));
        for (kind, value) in allocation_rows(&assignment.response) {
            rows.push(format!("  {kind}\t{}", sanitize(&value)));
        }
    }
    columns(out, rows)
}

/// Returns the kind and the value of each item in an Allocate response.
fn allocation_rows(response: &v1beta1::ContainerAllocateResponse) -> Vec<(&'static str, String)> {
    let mut rows = outputs(&Allocation::from(response.clone()));
    if rows.is_empty() {
        rows.push(("nothing", String::new()));
    }
    rows
}

/// The maximum number of device IDs that are printed for a NUMA node; further ones are only counted.
const DEVICES_SHOWN_MAX: usize = 4;

/// Formats the device IDs of an assignment, by NUMA node.
pub(crate) fn format_devices(assignment: &Assignment) -> String {
    let by_node = assignment.devices.iter().map(|(node, ids)| {
        let shown = ids.iter().take(DEVICES_SHOWN_MAX).map(|id| sanitize(id));
        let mut text = shown.collect::<Vec<_>>().join(", ");
        if ids.len() > DEVICES_SHOWN_MAX {
            text = format!("{text} and {} more", ids.len() - DEVICES_SHOWN_MAX);
        }
        match node {
            // The devices have no topology information.
            -1 => text,
            node => format!("NUMA node {node}: {text}"),
        }
    });
    by_node.collect::<Vec<_>>().join("; ")
}
