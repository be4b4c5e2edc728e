//! NUMA alignment of devices. It follows `pkg/kubelet/cm/devicemanager/topology_hints.go`.

use std::collections::BTreeSet;

use crate::admission_error::AdmissionError;
use crate::crash::Crash;

use super::{DeviceManager, NO_NUMA_NODE};

impl<C> DeviceManager<C> {
    /// Returns the lowest NUMA node that has enough free devices for every request. A request is a resource name and a
    /// count. Resources without topology fit on any node; if no resource has topology, returns `None`.
    ///
    /// # Errors
    /// Returns [`AdmissionError::TopologyAffinity`] if no node has enough free devices.
    pub(crate) fn numa_node_for(
        &self,
        requests: &[(&str, usize)],
    ) -> Result<Option<i64>, AdmissionError> {
        let mut aligned = Vec::new();
        let mut nodes = BTreeSet::new();
        for (resource, count) in requests {
            if let Some(list) = self.lists.get(*resource)
                && list.has_topology()
            {
                aligned.push((*resource, *count));
                nodes.extend(list.numa_nodes.values().flatten().copied());
            }
        }
        if nodes.is_empty() {
            return Ok(None);
        }
        let fits = |node: &i64| {
            aligned
                .iter()
                .all(|(resource, count)| self.has_free_devices_on(*node, resource, *count))
        };
        let node = nodes.into_iter().find(fits);
        node.map(Some).ok_or(AdmissionError::TopologyAffinity)
    }

    fn has_free_devices_on(&self, node: i64, resource: &str, count: usize) -> bool {
        let available = self.available(resource);
        let on_node = available
            .iter()
            .filter(|id| self.is_on_numa_node(resource, id, node));
        on_node.count() >= count
    }

    /// Returns whether the device is on the NUMA node. If the resource has no topology, every device is on every node.
    pub(crate) fn is_on_numa_node(&self, resource: &str, id: &str, node: i64) -> bool {
        !self.has_topology(resource) || self.numa_nodes(resource, id).contains(&node)
    }

    /// Computes topology hints for the pods that hold devices of this resource, as a topology manager does when it
    /// admits them again after a kubelet start or for an in-place resize (`generateDeviceTopologyHints`).
    ///
    /// # Errors
    /// Returns [`Crash::RemovedWhileHeld`] if a held device is no longer in the list: the kubelet dereferences it
    /// without a nil check.
    pub(crate) fn readmit_pods(&self, resource: &str) -> Result<(), Crash> {
        if !self.has_topology(resource) {
            return Ok(());
        }
        for assignment in &self.assignments {
            if assignment.resource != resource {
                continue;
            }
            let held = assignment.ids();
            if let Some(id) = held.into_iter().find(|id| !self.is_listed(resource, id)) {
                return Err(Crash::RemovedWhileHeld {
                    resource: resource.to_owned(),
                    id: id.to_owned(),
                    pod: assignment.pod.clone(),
                });
            }
        }
        Ok(())
    }

    fn has_topology(&self, resource: &str) -> bool {
        let list = self.lists.get(resource);
        list.is_some_and(super::DeviceList::has_topology)
    }

    /// Returns the NUMA nodes of a device, or only [`NO_NUMA_NODE`] if the device has none.
    pub(super) fn numa_nodes(&self, resource: &str, id: &str) -> Vec<i64> {
        let list = self.lists.get(resource);
        match list.and_then(|list| list.numa_nodes.get(id)) {
            Some(nodes) if !nodes.is_empty() => nodes.clone(),
            _ => vec![NO_NUMA_NODE],
        }
    }
}
