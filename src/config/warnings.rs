//! Warnings about settings that are valid but probably not intended.

use std::borrow::Cow;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use super::environment::Environment;
use super::settings::{At, Origin, ResourceSettings, Settings};
use super::{ConfiguredFaults, DesiredPlugins, container_limits};
use crate::model::allocation::Outputs;
use crate::model::device::Device;
use crate::model::numa::NumaNodes;
use crate::model::template::Template;
use crate::offer::resource::Resource;
use crate::util::sanitize::sanitize;

/// In characters. The device plugin API's documentation promises support for device IDs up to this length.
const ID_MAX: usize = 63;

/// How many devices of each resource are compared for conflicting outputs.
const DEVICES_COMPARED: usize = 1000;

/// How many NUMA nodes one warning names.
const NODES_SHOWN: usize = 8;

/// Returns the warnings about the resources and faults. `online` are the host's online NUMA nodes, if known.
pub fn of(plugins: &DesiredPlugins, online: Option<&NumaNodes>) -> Vec<String> {
    let DesiredPlugins { resources, faults } = plugins;
    let mut warnings: Vec<String> = resources.iter().filter_map(long_id).collect();
    warnings.extend(shared(
        resources,
        "the device ID",
        "the kubelet may report the health of a device on the wrong pod",
        ids,
    ));
    warnings.extend(resources.iter().flat_map(|r| never_injected(r, faults)));
    warnings.extend(resources.iter().flat_map(container_limits::warnings));
    for (what, names) in OUTPUTS {
        let names = |resource| named(resource, names);
        warnings.extend(shared(
            resources,
            what,
            "a container that gets both keeps one of them, at random",
            names,
        ));
    }
    if let Some(online) = online {
        warnings.extend(resources.iter().filter_map(|r| missing_numa(r, online)));
    }
    warnings
}

/// Returns the warnings about settings that have no effect.
pub(crate) fn of_settings(settings: &Settings) -> Vec<String> {
    let is_set = |at: &Option<At<String>>| at.as_ref().is_some_and(|at| !at.value.is_empty());
    let host_path = |resource: &ResourceSettings| {
        let path = resource.device_file_host_path.as_ref();
        path.filter(|path| !path.value.is_empty())
            .map(|path| path.origin.clone())
    };
    let with_prefix = settings.resources.iter();
    let with_prefix = with_prefix.filter(|resource| is_set(&resource.device_file_prefix));
    // One variable can apply to several resources, some of which have no prefix.
    let effective: Vec<Origin> = with_prefix.filter_map(host_path).collect();
    let mut warnings = settings.warnings.clone();
    for resource in &settings.resources {
        let Some(origin) = host_path(resource).filter(|origin| !effective.contains(origin)) else {
            continue;
        };
        let warning = match origin {
            Origin::Variable(name) => {
                format!("{name} has no effect without DEVICE_FILE_PREFIX")
            }
            Origin::Line(_) => format!(
                "{}: deviceFileHostPath has no effect without deviceFilePrefix",
                sanitize(&resource.name.value)
            ),
        };
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }
    warnings
}

/// Returns a warning if `ALLOWED_HOST_PATHS` is set without a config file.
pub(crate) fn of_allowed_host_paths(environment: &Environment, has_file: bool) -> Option<String> {
    let paths = environment.get("ALLOWED_HOST_PATHS")?.to_string_lossy();
    (!has_file && !paths.trim().is_empty())
        .then(|| "ALLOWED_HOST_PATHS has no effect without CONFIG_FILE".to_owned())
}

/// Returns a warning if the control socket is in the device plugin directory.
pub(crate) fn of_control(control: Option<&Path>, plugin_dir: &Path) -> Option<String> {
    let control = control.filter(|control| control.parent() == Some(plugin_dir))?;
    let path = control.display();
    Some(format!(
        "CONTROL_SOCKET {path} is in the kubelet's device plugin directory: the kubelet deletes every socket there when it starts"
    ))
}

fn long_id(resource: &Resource) -> Option<String> {
    let longest = resource
        .devices
        .as_slice()
        .iter()
        .max_by_key(|d| d.id.len())?;
    (longest.id.len() > ID_MAX).then(|| {
        format!(
            "{}: device ID {} has {} characters, more than the {ID_MAX} that the device plugin API supports",
            resource.name,
            sanitize(&longest.id),
            longest.id.len()
        )
    })
}

fn never_injected(resource: &Resource, faults: &ConfiguredFaults) -> impl Iterator<Item = String> {
    let faults = faults.of(&resource.name).iter();
    faults.filter_map(|fault| {
        let name = &resource.name;
        if let Err(error) = fault.check_devices(&resource.devices) {
            let error = sanitize(&error.to_string());
            return Some(format!(
                "{name}: the fault {fault} names a device that does not exist: {error}"
            ));
        }
        let why = fault.never_injected(resource.options())?;
        Some(format!(
            "{name}: the fault {fault} is never injected: {why}"
        ))
    })
}

fn ids(resource: &Resource) -> Vec<Cow<'_, str>> {
    let devices = resource.devices.as_slice().iter();
    devices.map(|device| Cow::Borrowed(&*device.id)).collect()
}

type Names = fn(&Outputs) -> Vec<&Template>;

/// Outputs whose names should be unique in a container.
const OUTPUTS: [(&str, Names); 3] = [
    ("the environment variable", |outputs| {
        outputs.envs.iter().map(|(name, _)| name).collect()
    }),
    ("the annotation", |outputs| {
        outputs.annotations.iter().map(|(key, _)| key).collect()
    }),
    ("the container path", |outputs| {
        let files = outputs.device_files.iter().map(|rule| &rule.container_path);
        files
            .chain(outputs.mounts.iter().map(|rule| &rule.container_path))
            .collect()
    }),
];

/// Evaluates the names for the first [`DEVICES_COMPARED`] devices of the resource, as if one container had them all.
fn named(resource: &Resource, names: Names) -> Vec<Cow<'_, str>> {
    let devices = resource.devices.as_slice().iter().take(DEVICES_COMPARED);
    let devices: Vec<&Device> = devices.collect();
    let of = |name: &Template| {
        let count = if name.is_per_device() {
            devices.len()
        } else {
            devices.len().min(1)
        };
        (0..count)
            .map(|at| name.of(&devices, at).into())
            .collect::<Vec<_>>()
    };
    names(&resource.outputs).into_iter().flat_map(of).collect()
}

/// Warns about names that several resources, or several devices of one resource, share: one example for each group.
fn shared<'a>(
    resources: &'a [Resource],
    what: &str,
    effect: &str,
    names: impl Fn(&'a Resource) -> Vec<Cow<'a, str>>,
) -> Vec<String> {
    let mut owners: HashMap<Cow<str>, usize> = HashMap::new();
    let mut groups: BTreeMap<usize, (Cow<str>, BTreeSet<usize>)> = BTreeMap::new();
    let mut twice: BTreeMap<usize, Cow<str>> = BTreeMap::new();
    for (index, resource) in resources.iter().enumerate() {
        for name in names(resource) {
            let Entry::Occupied(owner) = owners.entry(name.clone()) else {
                owners.insert(name, index);
                continue;
            };
            let first = *owner.get();
            if first == index {
                twice.entry(index).or_insert(name);
            } else {
                groups
                    .entry(first)
                    .or_insert((name, BTreeSet::from([first])))
                    .1
                    .insert(index);
            }
        }
    }
    let warn_of = |(name, indexes): (Cow<str>, BTreeSet<usize>)| {
        let names: Vec<&str> = indexes
            .iter()
            .map(|index| resources[*index].name.as_str())
            .collect();
        format!(
            "{} share {what} {}: {effect}",
            names.join(" and "),
            sanitize(&name)
        )
    };
    let warn_twice = |(index, name): (usize, Cow<str>)| {
        let resource = &resources[index].name;
        format!(
            "{resource} has {what} {} for several devices: {effect}",
            sanitize(&name)
        )
    };
    let groups = groups.into_values().map(warn_of);
    groups.chain(twice.into_iter().map(warn_twice)).collect()
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
