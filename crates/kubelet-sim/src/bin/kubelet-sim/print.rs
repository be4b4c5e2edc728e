//! How the node's resources and what pods hold of them are shown.

use std::io::{self, Write};

use anstyle::Style;
use kubelet_sim::{Assignment, NodeResources, Quantities};
use simple_device_plugin::api::v1beta1;
use simple_device_plugin::cli::print::{columns, outputs, table};
use simple_device_plugin::cli::style::{DIM, ODD, PLAIN};
use simple_device_plugin::model::allocation::Allocation;
use simple_device_plugin::util::sanitize::sanitize;

/// The node's extended resources.
pub fn print_node(out: &mut impl Write, node: &NodeResources) -> io::Result<()> {
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
pub fn print_assignments(out: &mut impl Write, got: &[Assignment]) -> io::Result<()> {
    let mut rows = Vec::new();
    for assignment in got {
        rows.push(format!(
            "{}\t{}",
            assignment.resource,
            format_devices(assignment)
        ));
        let given = allocation_rows(&assignment.response).into_iter();
        rows.extend(given.map(|(what, value)| format!("  {what}\t{}", sanitize(&value))));
    }
    columns(out, rows)
}

/// All that an answer to Allocate has.
fn allocation_rows(response: &v1beta1::ContainerAllocateResponse) -> Vec<(&'static str, String)> {
    let mut rows = outputs(&Allocation::from(response.clone()));
    if rows.is_empty() {
        rows.push(("nothing", String::new()));
    }
    rows
}

/// So many devices are named; more are counted.
const DEVICES_SHOWN_MAX: usize = 4;

/// The devices with their NUMA nodes.
pub fn format_devices(assignment: &Assignment) -> String {
    let by_node = assignment.devices.iter().map(|(node, ids)| {
        let named = ids.iter().take(DEVICES_SHOWN_MAX).map(|id| sanitize(id));
        let mut text = named.collect::<Vec<_>>().join(", ");
        if ids.len() > DEVICES_SHOWN_MAX {
            text = format!("{text} and {} more", ids.len() - DEVICES_SHOWN_MAX);
        }
        match node {
            -1 => text,
            node => format!("NUMA node {node}: {text}"),
        }
    });
    by_node.collect::<Vec<_>>().join("; ")
}
