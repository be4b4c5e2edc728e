//! What works, but probably not as meant.

use std::collections::{BTreeMap, BTreeSet};

use crate::foreign::foreign;
use crate::numa::NumaNodes;
use crate::resource::Resource;

/// Longest device ID that the API's text promises to carry.
const ID_MAX: usize = 63;

/// So many NUMA nodes are named in a warning.
const NODES_SHOWN: usize = 8;

/// The warnings about these resources; `online` are the host's NUMA nodes, where known.
pub fn of(resources: &[Resource], online: Option<&NumaNodes>) -> Vec<String> {
    let mut warnings: Vec<String> = resources.iter().filter_map(long_id).collect();
    let some: Vec<&Resource> = resources.iter().filter(|r| !r.devices.is_empty()).collect();
    // Names end in the index and every list begins with 0, so two resources that share one share the first.
    warnings.extend(shared(
        &some,
        "the devices' IDs",
        "a health update reaches the wrong pod",
        |r| {
            r.devices
                .as_slice()
                .first()
                .map(|device| device.id.to_string())
        },
    ));
    let one_wins = "one wins at random when a container has both";
    warnings.extend(shared(&some, "ENV_PREFIX", one_wins, |r| {
        r.outputs.env_prefix.clone()
    }));
    warnings.extend(shared(&some, "ANNOTATION_PREFIX", one_wins, |r| {
        r.outputs.annotation_prefix.clone()
    }));
    warnings.extend(shared(&some, "DEVICE_FILE_PREFIX", one_wins, |r| {
        r.outputs
            .device_file
            .as_ref()
            .map(|rule| rule.prefix.clone())
    }));
    if let Some(online) = online {
        warnings.extend(resources.iter().filter_map(|r| missing_numa(r, online)));
    }
    warnings
}

fn long_id(resource: &Resource) -> Option<String> {
    let longest = resource
        .devices
        .as_slice()
        .iter()
        .max_by_key(|d| d.id.len())?;
    (longest.id.len() > ID_MAX).then(|| {
        format!(
            "{}: device ID {} has {} characters, the device plugin API promises to carry {ID_MAX}",
            resource.name,
            foreign(&longest.id),
            longest.id.len()
        )
    })
}

/// Says which resources have the same of something, and what comes of it.
fn shared(
    resources: &[&Resource],
    what: &str,
    effect: &str,
    of: impl Fn(&Resource) -> Option<String>,
) -> Vec<String> {
    let mut owners: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for resource in resources {
        if let Some(key) = of(resource) {
            owners.entry(key).or_default().push(resource.name.as_str());
        }
    }
    let several = owners.into_iter().filter(|(_, names)| names.len() > 1);
    several
        .map(|(key, names)| {
            let names = names.join(" and ");
            format!(
                "{names} have {what} in common ({}): {effect}",
                foreign(&key)
            )
        })
        .collect()
}

fn missing_numa(resource: &Resource, online: &NumaNodes) -> Option<String> {
    let devices = resource.devices.as_slice();
    let used: BTreeSet<u16> = devices
        .iter()
        .flat_map(|d| d.numa.iter().copied())
        .collect();
    let missing: Vec<String> = used
        .iter()
        .filter(|node| !online.as_slice().contains(node))
        .map(ToString::to_string)
        .collect();
    (!missing.is_empty()).then(|| {
        let shown = missing.iter().take(NODES_SHOWN).map(String::as_str).collect::<Vec<_>>();
        let more = missing.len() - shown.len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!(
            "{}: this host has no NUMA node {}{more}; with the topology manager's policy restricted or \
             single-numa-node, a pod that needs a device there fails with TopologyAffinityError",
            resource.name,
            shown.join(", ")
        )
    })
}
