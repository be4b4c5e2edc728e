//! The lists that a plugin sends on ListAndWatch.

use std::collections::{BTreeMap, BTreeSet};

use simple_device_plugin::util::sanitize::sanitize;

use super::registration::watched;
use super::{Check, Level, Outcome, Verdict, each, plugin};
use crate::conformance::context::{Context, Resource};
use crate::conformance::kubelet::Registration;

/// In bytes: the limit of grpc-go, which the kubelet does not change.
const LIST_MAX: usize = 4 << 20;
/// In characters.
const ID_MAX: usize = 63;
/// The NUMA nodes of the kubelet's bit mask.
const NUMA_NODES: std::ops::Range<i64> = 0..64;
/// The number of repeated lists that are no fault: a plugin may send its list again when it starts to watch its devices.
const REPEATS_MAX: usize = 1;

const API: &str = "Device in pkg/apis/deviceplugin/v1beta1/api.proto";

pub(super) const CHECKS: [Check; 7] = [
    Check {
        id: "list-size",
        level: Level::Must,
        statement: "sends lists of at most 4 MiB",
        rule: "A larger message ends the stream, and the kubelet never opens it again.",
        source: "plugin/v1beta1/client.go; grpc-go's limit of 4,194,304 bytes",
        advice: "Shorten the device IDs or offer fewer devices.",
        run: |context| Box::pin(each(context, size)),
    },
    Check {
        id: "ids-unique",
        level: Level::Must,
        statement: "sends each device ID once in a list",
        rule: "The kubelet keeps one device for each ID; an ID with two health values counts twice.",
        source: "manager.go",
        advice: "Give each device an ID of its own.",
        run: |context| Box::pin(each(context, unique)),
    },
    Check {
        id: "ids-unique-across-resources",
        level: Level::Should,
        statement: "uses no device ID for two resources",
        rule: "The kubelet finds the pod of an unhealthy device by the ID alone.",
        source: "manager.go",
        advice: "Put the resource's name or another prefix in the IDs.",
        run: |context| Box::pin(unique_across_resources(context)),
    },
    Check {
        id: "ids-length",
        level: Level::Should,
        statement: "uses device IDs of 1 to 63 characters",
        rule: "The API defines a maximum of 63 characters. The kubelet does not validate it.",
        source: API,
        advice: "Shorten the IDs, for example to a serial number or an index.",
        run: |context| Box::pin(each(context, length)),
    },
    Check {
        id: "health-values",
        level: Level::Must,
        statement: "reports the health as Healthy or Unhealthy",
        rule: "The kubelet treats every other text as unhealthy, and allocates no such device.",
        source: "manager.go",
        advice: "Spell the health exactly Healthy or Unhealthy.",
        run: |context| Box::pin(each(context, health)),
    },
    Check {
        id: "numa-nodes",
        level: Level::Must,
        statement: "reports NUMA nodes from 0 to 63, or none",
        rule: "The kubelet's bit mask holds the nodes 0 to 63. A device on another node fits no topology hint, so \
               a topology policy can refuse its pods.",
        source: "topology_hints.go; topologymanager/bitmask",
        advice: "Leave the topology out if the node is unknown, as with -1 in numa_node of Linux.",
        run: |context| Box::pin(each(context, numa)),
    },
    Check {
        id: "list-not-repeated",
        level: Level::Should,
        statement: "sends a list only when something changed",
        rule: "The kubelet writes its checkpoint file for each list.",
        source: "manager.go",
        advice: "Compare with the last list before sending.",
        run: |context| Box::pin(not_repeated(context)),
    },
];

fn size(resource: &Resource) -> Verdict {
    let size = resource.largest_list;
    let text = format!("{} devices, {size} bytes", resource.list.devices.len());
    if size > LIST_MAX {
        Verdict::Fail(text)
    } else {
        Verdict::Pass(text)
    }
}

fn unique(resource: &Resource) -> Verdict {
    let mut known = BTreeSet::new();
    let mut ids = resource.list.devices.iter().map(|device| &device.id);
    let repeated = ids.find(|id| !known.insert(*id));
    Verdict::from_error(repeated.map(|id| format!("the list has {} twice", sanitize(id))))
}

async fn unique_across_resources(context: &mut Context) -> Outcome {
    let resources = context.registered().await?;
    if resources.len() < 2 {
        return Ok(plugin(Verdict::Skip(
            "the plugin has one resource".to_owned(),
        )));
    }
    let mut owners: BTreeMap<String, &str> = BTreeMap::new();
    for resource in &resources {
        for id in resource.ids() {
            if let Some(owner) = owners.get(&id) {
                let (id, name) = (sanitize(&id), &resource.name);
                let seen = format!("{owner} and {name} both have {id}");
                return Ok(plugin(Verdict::Fail(seen)));
            }
            owners.insert(id, &resource.name);
        }
    }
    Ok(plugin(Verdict::pass()))
}

fn length(resource: &Resource) -> Verdict {
    let mut ids = resource.list.devices.iter().map(|device| &device.id);
    let wrong = ids.find(|id| !(1..=ID_MAX).contains(&id.chars().count()));
    Verdict::from_error(wrong.map(|id| {
        let count = id.chars().count();
        format!("an ID has {count} characters: \"{}\"", sanitize(id))
    }))
}

fn health(resource: &Resource) -> Verdict {
    let mut devices = resource.list.devices.iter();
    let wrong = devices.find(|device| !device.has_known_health());
    Verdict::from_error(wrong.map(|device| {
        let (id, health) = (sanitize(&device.id), sanitize(&device.health));
        format!("the health of {id} is \"{health}\"")
    }))
}

fn numa(resource: &Resource) -> Verdict {
    let devices = resource.list.devices.iter();
    let mut nodes = devices.flat_map(|device| {
        let nodes = device.numa_nodes().into_iter();
        nodes.map(move |node| (&device.id, node))
    });
    let wrong = nodes.find(|(_, node)| !NUMA_NODES.contains(node));
    Verdict::from_error(wrong.map(|(id, node)| format!("{} is on NUMA node {node}", sanitize(id))))
}

async fn not_repeated(context: &mut Context) -> Outcome {
    if context.observations.watched.is_none() {
        context.registered().await?;
    }
    let seconds = context.settings.watch.as_secs_f32();
    let calls = watched(context).await?;
    let newest: BTreeMap<&str, &Registration> = calls.iter().map(|r| (r.resource(), r)).collect();
    let verdict = |registration: &Registration| {
        let lists = &registration.lists;
        let (count, repeats) = (lists.count, lists.repeats);
        let seen = format!("{count} sent and {repeats} repeated in {seconds} s");
        if repeats > REPEATS_MAX {
            Verdict::Fail(seen)
        } else {
            Verdict::Pass(seen)
        }
    };
    let newest = newest.into_iter();
    Ok(newest
        .map(|(name, registration)| (Some(sanitize(name)), verdict(registration)))
        .collect())
}
