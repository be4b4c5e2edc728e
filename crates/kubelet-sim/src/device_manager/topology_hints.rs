//! The NUMA nodes of devices: hints for the topology manager, and the devices on the nodes that it chose. It follows
//! `pkg/kubelet/cm/devicemanager/topology_hints.go`, and `filterByAffinity` in `manager.go`.

use std::collections::BTreeSet;

use crate::crash::Crash;
use crate::topology_manager::{NUMA_NODES_MAX, NumaMask, ResourceHints, TopologyHint};

use super::allocation::removed_before_reuse;
use super::{DeviceManager, DeviceRequest, NO_NUMA_NODE};

/// Available devices by their distance to the nodes that the topology manager chose.
#[derive(Debug, Default)]
pub(super) struct ByAffinity {
    /// Devices on one of the nodes.
    pub(super) aligned: BTreeSet<String>,
    /// Devices on other nodes.
    pub(super) unaligned: BTreeSet<String>,
    /// Devices without nodes. All devices, if the topology does not matter.
    pub(super) no_affinity: BTreeSet<String>,
}

impl<C> DeviceManager<C> {
    /// Returns the NUMA nodes of the host: nodes 0 to `count` - 1, or node 0 and every node that a device names. A host
    /// has at most [`NUMA_NODES_MAX`] nodes.
    pub(crate) fn host_numa_nodes(&self, count: Option<usize>) -> NumaMask {
        if let Some(count) = count {
            return (0..64).take(count.min(NUMA_NODES_MAX)).collect();
        }
        let lists = self.lists.values();
        let nodes = lists.flat_map(|list| list.numa_nodes.values().flatten());
        let nodes: BTreeSet<i64> = nodes
            .copied()
            .filter(|node| *node >= 0)
            .chain([0])
            .collect();
        nodes.into_iter().take(NUMA_NODES_MAX).collect()
    }

    /// Returns the hints for a request (`GetTopologyHints`).
    ///
    /// # Errors
    /// Returns [`Crash::RemovedBeforeReuse`] if a reusable device is no longer in the list: the kubelet dereferences it
    /// without a nil check.
    pub(crate) fn topology_hints(
        &self,
        request: DeviceRequest<'_>,
        reusable: Option<&BTreeSet<String>>,
        host: NumaMask,
    ) -> Result<ResourceHints, Crash> {
        let resource = request.resource;
        if !self.has_topology(resource) {
            return Ok(None);
        }
        let available = self.available(resource);
        let reusable: Vec<&String> = reusable.into_iter().flatten().collect();
        if available.len() + reusable.len() < request.count {
            return Ok(Some(Vec::new()));
        }
        if let Some(id) = reusable.iter().find(|id| !self.is_listed(resource, id)) {
            return Err(removed_before_reuse(request, id));
        }
        let nodes = |id: &String| self.numa_nodes(resource, id);
        let available: Vec<Vec<i64>> = available.iter().map(nodes).collect();
        let mut reusable: Vec<Vec<i64>> = reusable.into_iter().map(nodes).collect();
        reusable.retain(|nodes| nodes != &[NO_NUMA_NODE]);
        Ok(Some(
            self.generate_hints(request, &available, &reusable, host),
        ))
    }

    /// Returns a hint for each set of NUMA nodes that has all reusable devices and enough devices
    /// (`generateDeviceTopologyHints`). A device is given by its nodes.
    fn generate_hints(
        &self,
        request: DeviceRequest<'_>,
        available: &[Vec<i64>],
        reusable: &[Vec<i64>],
        host: NumaMask,
    ) -> Vec<TopologyHint> {
        let list = self.lists.get(request.resource);
        let listed: Vec<&Vec<i64>> = list
            .into_iter()
            .flat_map(|l| l.numa_nodes.values())
            .collect();
        let mut fewest_nodes = host.count();
        let mut possible = Vec::new();
        for nodes in host.subsets() {
            let is_in = |device: &&Vec<i64>| nodes.contains_any(device);
            if listed.iter().filter(|device| is_in(device)).count() >= request.count {
                fewest_nodes = fewest_nodes.min(nodes.count());
            }
            let matching = available.iter().filter(is_in).count() + reusable.len();
            if reusable.iter().all(|device| is_in(&device)) && matching >= request.count {
                possible.push(nodes);
            }
        }
        let hint = |nodes: NumaMask| TopologyHint {
            nodes: Some(nodes),
            preferred: nodes.count() == fewest_nodes,
        };
        possible.into_iter().map(hint).collect()
    }

    /// Sorts available devices by the affinity of the container, `None` for any nodes (`filterByAffinity`).
    pub(super) fn by_affinity(
        &self,
        resource: &str,
        available: &BTreeSet<String>,
        affinity: Option<NumaMask>,
    ) -> ByAffinity {
        let mut sorted = ByAffinity::default();
        let Some(affinity) = affinity.filter(|_| self.has_topology(resource)) else {
            sorted.no_affinity.clone_from(available);
            return sorted;
        };
        for id in available {
            let nodes = self.numa_nodes(resource, id);
            let set = if affinity.contains_any(&nodes) {
                &mut sorted.aligned
            } else if nodes == [NO_NUMA_NODE] {
                &mut sorted.no_affinity
            } else {
                &mut sorted.unaligned
            };
            set.insert(id.clone());
        }
        sorted
    }

    pub(super) fn has_topology(&self, resource: &str) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device_manager::Choice;
    use crate::device_manager::tests::{device_on, manager_with};
    use simple_device_plugin::api::v1beta1;

    /// Returns a device manager whose devices a and b are on NUMA node 0, c is on node 1, and d is on none.
    fn manager() -> DeviceManager<()> {
        let without_topology = v1beta1::Device {
            topology: None,
            ..device_on("d", &[])
        };
        let devices = [("a", 0), ("b", 0), ("c", 1)];
        let devices = devices.iter().map(|(id, node)| device_on(id, &[*node]));
        let devices = devices.chain([without_topology]).collect();
        manager_with(devices, std::time::Instant::now())
    }

    fn request(count: usize) -> DeviceRequest<'static> {
        DeviceRequest {
            pod: "p",
            container: "main",
            resource: "r",
            count,
        }
    }

    fn set(ids: &[&str]) -> BTreeSet<String> {
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    /// Returns the hints for a request on a host with NUMA nodes 0 and 1, such as `01 preferred`, sorted.
    fn hints(manager: &DeviceManager<()>, count: usize, reusable: &[&str]) -> Vec<String> {
        let host = (0..2).collect();
        let hints = manager.topology_hints(request(count), Some(&set(reusable)), host);
        let hints = hints.expect("no crash").expect("a topology").into_iter();
        let text = |hint: TopologyHint| {
            let nodes = hint.nodes.expect("nodes");
            let nodes = (0..2).filter(|node| nodes.contains(*node));
            let nodes: String = nodes.map(|node| node.to_string()).collect();
            let preferred = if hint.preferred { " preferred" } else { "" };
            format!("{nodes}{preferred}")
        };
        let mut hints: Vec<String> = hints.map(text).collect();
        hints.sort();
        hints
    }

    #[test]
    fn hints_name_the_nodes_that_have_enough_available_devices() {
        let mut manager = manager();
        assert_eq!(
            hints(&manager, 1, &[]),
            ["0 preferred", "01", "1 preferred"]
        );
        assert_eq!(hints(&manager, 2, &[]), ["0 preferred", "01"]);
        assert_eq!(hints(&manager, 3, &[]), ["01 preferred"]);
        assert!(
            hints(&manager, 4, &[]).is_empty(),
            "device d counts nowhere"
        );
        assert!(hints(&manager, 5, &[]).is_empty(), "too few are available");
        // Node 0 would have two devices if both were available, so two nodes are not preferred.
        manager.allocated.insert("r".to_owned(), set(&["a"]));
        assert_eq!(hints(&manager, 2, &[]), ["01"]);
    }

    #[test]
    fn hints_include_the_nodes_of_reusable_devices() {
        let mut manager = manager();
        manager.allocated.insert("r".to_owned(), set(&["c"]));
        assert_eq!(hints(&manager, 1, &["c"]), ["01", "1 preferred"]);
        manager.allocated.insert("r".to_owned(), set(&["d"]));
        assert_eq!(hints(&manager, 2, &["d"]), ["0 preferred", "01"]);
    }

    #[test]
    fn a_reusable_device_that_is_not_listed_crashes_the_kubelet() {
        let host = (0..2).collect();
        let crash = manager().topology_hints(request(1), Some(&set(&["x"])), host);
        assert_eq!(crash, Err(removed_before_reuse(request(1), "x")));
    }

    #[test]
    fn available_devices_are_sorted_by_their_nodes() {
        let manager = manager();
        let available = set(&["a", "c", "d"]);
        let sorted = manager.by_affinity("r", &available, Some([1].into_iter().collect()));
        assert_eq!(sorted.aligned, set(&["c"]));
        assert_eq!(sorted.unaligned, set(&["a"]));
        assert_eq!(sorted.no_affinity, set(&["d"]));
        assert_eq!(
            manager.by_affinity("r", &available, None).no_affinity,
            available
        );
    }

    #[test]
    fn devices_on_other_nodes_are_taken_before_devices_without_nodes() {
        let affinity = Some([1].into_iter().collect());
        let mut manager = manager();
        let choice = manager.choose(request(3), None, affinity);
        let Ok(Choice::Partial(choice)) = choice else {
            panic!("the plugin is asked: {choice:?}");
        };
        let chosen = manager.complete("r", choice, &[]);
        assert_eq!(
            chosen.into_iter().collect::<BTreeSet<_>>(),
            set(&["a", "b", "c"])
        );
    }

    #[test]
    fn the_host_has_node_0_and_the_nodes_that_devices_name_or_as_many_as_are_set() {
        let nodes = |devices: &[(&str, i64)], count| {
            let devices = devices.iter().map(|(id, node)| device_on(id, &[*node]));
            let manager = manager_with(devices.collect(), std::time::Instant::now());
            let host = manager.host_numa_nodes(count);
            (0..64)
                .filter(|node| host.contains(*node))
                .collect::<Vec<_>>()
        };
        assert_eq!(nodes(&[], None), [0]);
        assert_eq!(nodes(&[("a", 3), ("b", -1), ("c", 100)], None), [0, 3]);
        assert_eq!(nodes(&[("a", 3)], Some(2)), [0, 1]);
        assert_eq!(nodes(&[], Some(9)).len(), NUMA_NODES_MAX);
    }
}
