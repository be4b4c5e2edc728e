//! The devices in a plugin's most recent ListAndWatch message.

use std::collections::{BTreeMap, BTreeSet};

use simple_device_plugin::api::v1beta1;

use crate::event::{DeviceChange, DeviceState};

/// The devices of one ListAndWatch message. The kubelet keeps healthy and unhealthy device IDs in two sets, so an ID
/// that is listed with both healths is in both sets and counts twice.
#[derive(Debug, Default)]
pub(super) struct DeviceList {
    pub(super) healthy: BTreeSet<String>,
    pub(super) unhealthy: BTreeSet<String>,
    /// The NUMA nodes of each device that has topology information.
    pub(super) numa_nodes: BTreeMap<String, Vec<i64>>,
}

impl DeviceList {
    pub(super) fn contains(&self, id: &str) -> bool {
        self.healthy.contains(id) || self.unhealthy.contains(id)
    }

    /// Returns whether any device has a NUMA node (`deviceHasTopologyAlignment` in `topology_hints.go`).
    pub(super) fn has_topology(&self) -> bool {
        self.numa_nodes.values().any(|nodes| !nodes.is_empty())
    }

    pub(super) fn mark_all_unhealthy(&mut self) {
        self.unhealthy.append(&mut self.healthy);
    }

    /// Returns the devices that differ from the previous list, or nothing if the previous list was empty.
    pub(super) fn changes_since(&self, before: &Self) -> Vec<DeviceChange> {
        if before.healthy.is_empty() && before.unhealthy.is_empty() {
            return Vec::new();
        }
        let change = |id: &String, state| DeviceChange {
            id: id.clone(),
            state,
        };
        let unhealthy = self.unhealthy.difference(&before.unhealthy);
        let healthy = self.healthy.difference(&before.healthy);
        let listed_before = before.healthy.union(&before.unhealthy);
        let removed = listed_before.filter(|id| !self.contains(id));
        let unhealthy = unhealthy.map(|id| change(id, DeviceState::Unhealthy));
        let healthy = healthy.map(|id| change(id, DeviceState::Healthy));
        let removed = removed.map(|id| change(id, DeviceState::Removed));
        unhealthy.chain(healthy).chain(removed).collect()
    }
}

impl From<v1beta1::ListAndWatchResponse> for DeviceList {
    fn from(message: v1beta1::ListAndWatchResponse) -> Self {
        let mut list = Self::default();
        for device in message.devices {
            if device.topology.is_some() {
                let nodes = device.numa_nodes();
                list.numa_nodes.insert(device.id.clone(), nodes);
            }
            if device.is_healthy() {
                list.healthy.insert(device.id);
            } else {
                list.unhealthy.insert(device.id);
            }
        }
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topology_without_nodes_is_no_topology() {
        let list = |nodes: Vec<v1beta1::NumaNode>| {
            DeviceList::from(v1beta1::ListAndWatchResponse {
                devices: vec![v1beta1::Device {
                    id: "a".to_owned(),
                    health: "Healthy".to_owned(),
                    topology: Some(v1beta1::TopologyInfo { nodes }),
                }],
            })
        };
        assert!(!list(Vec::new()).has_topology());
        assert!(list(vec![v1beta1::NumaNode { id: 0 }]).has_topology());
    }
}
