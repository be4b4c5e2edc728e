//! The state of the device manager: the plugin and the devices of each resource, and the devices that pods hold. It
//! follows `pkg/kubelet/cm/devicemanager/manager.go`. It does no I/O, and callers pass the time.

mod allocation;
mod device_list;
mod pod_devices;
mod readmission;
mod topology_hints;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use simple_device_plugin::api::v1beta1;

use crate::event::DeviceChange;

use device_list::DeviceList;

pub(crate) use allocation::{Choice, DeviceRequest, PartialChoice};
pub use pod_devices::Assignment;
pub(crate) use pod_devices::ReusableDevices;
use pod_devices::{DevicesByResource, add_devices};

/// The key of devices without topology information, also in the kubelet's checkpoint (`nodeWithoutTopology`).
const NO_NUMA_NODE: i64 = -1;

/// The capacity and allocatable that the Node object shows for one extended resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quantities {
    /// The number of devices, healthy or not.
    pub capacity: usize,
    /// The number of healthy devices, including those that pods hold.
    pub allocatable: usize,
}

/// The extended resources of the Node object, by name. As on a real node, a resource that the kubelet forgot stays with
/// both quantities 0.
pub type NodeResources = BTreeMap<String, Quantities>;

/// The plugin that serves a resource (`endpointInfo`). `C` is the client that calls it.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint<C> {
    /// `None` after a kubelet restart, until the plugin registers again.
    pub(crate) client: Option<C>,
    /// The response to GetDevicePluginOptions.
    pub(crate) options: v1beta1::DevicePluginOptions,
    stopped: Option<Instant>,
}

impl<C> Endpoint<C> {
    /// Returns whether the kubelet refuses to call the plugin, which may still be connected (`isStopped`).
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.is_some()
    }
}

/// The state of the device manager. `C` is the client of a plugin; the unit tests use `()`.
#[derive(Debug)]
pub(crate) struct DeviceManager<C> {
    endpoint_stop_grace_period: Duration,
    endpoints: BTreeMap<String, Endpoint<C>>,
    lists: BTreeMap<String, DeviceList>,
    /// The devices that containers hold (`podDevices`), also those of deleted pods until they are freed.
    assignments: Vec<Assignment>,
    /// The devices that are not available (`allocatedDevices`). It is not derived from `assignments` each time, because
    /// the kubelet does not do that either: see [`Self::choose`].
    allocated: DevicesByResource,
    /// Every resource that the Node object shows. The kubelet never removes a resource from the Node object.
    known_resources: BTreeSet<String>,
}

impl<C> DeviceManager<C> {
    /// Returns the state after a kubelet start with the contents of a checkpoint. Each registered resource is known,
    /// but its endpoint is stopped and it has no devices until its plugin registers again.
    pub(crate) fn from_checkpoint(
        endpoint_stop_grace_period: Duration,
        registered: Vec<String>,
        assignments: Vec<Assignment>,
        now: Instant,
    ) -> Self {
        let mut endpoints = BTreeMap::new();
        let mut lists = BTreeMap::new();
        for resource in &registered {
            let endpoint = Endpoint {
                client: None,
                options: v1beta1::DevicePluginOptions::default(),
                stopped: Some(now),
            };
            endpoints.insert(resource.clone(), endpoint);
            lists.insert(resource.clone(), DeviceList::default());
        }
        let mut manager = Self {
            endpoint_stop_grace_period,
            endpoints,
            lists,
            assignments,
            allocated: DevicesByResource::new(),
            known_resources: registered.into_iter().collect(),
        };
        manager.restore_allocated();
        manager
    }

    /// `PluginConnected`: the plugin that registered last takes over the resource.
    pub(crate) fn plugin_connected(
        &mut self,
        resource: &str,
        client: C,
        options: v1beta1::DevicePluginOptions,
    ) {
        let endpoint = Endpoint {
            client: Some(client),
            options,
            stopped: None,
        };
        self.endpoints.insert(resource.to_owned(), endpoint);
    }

    /// `PluginDisconnected`: marks the resource's current endpoint as stopped, even if another plugin has taken it
    /// over, and its devices as unhealthy. A resource whose plugin never sent a list gets none (`markResourceUnhealthy`).
    pub(crate) fn plugin_disconnected(&mut self, resource: &str, now: Instant) {
        let Some(endpoint) = self.endpoints.get_mut(resource) else {
            return;
        };
        endpoint.stopped = Some(now);
        self.known_resources.insert(resource.to_owned());
        if let Some(list) = self.lists.get_mut(resource) {
            list.mark_all_unhealthy();
        }
    }

    /// `PluginListAndWatchReceiver`: replaces the resource's list, even if the message came from the stream of a
    /// replaced plugin. Returns the differences from the previous list.
    pub(crate) fn update_devices(
        &mut self,
        resource: &str,
        message: v1beta1::ListAndWatchResponse,
    ) -> Vec<DeviceChange> {
        let list = DeviceList::from(message);
        self.known_resources.insert(resource.to_owned());
        let before = self.lists.entry(resource.to_owned()).or_default();
        let changes = list.changes_since(before);
        *before = list;
        changes
    }

    /// Returns when the first grace period of a stopped endpoint ends, or `None` if no endpoint is stopped.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        let stopped = self.endpoints.values().filter_map(|e| e.stopped);
        let first = stopped.min()?;
        Some(first + self.endpoint_stop_grace_period)
    }

    /// Returns the resource's quantities; both are 0 for an unknown resource.
    pub(crate) fn quantities(&self, resource: &str) -> Quantities {
        match self.lists.get(resource) {
            Some(list) => Quantities {
                capacity: list.healthy.len() + list.unhealthy.len(),
                allocatable: list.healthy.len(),
            },
            None => Quantities::default(),
        }
    }

    /// Forgets endpoints that have been stopped for the whole grace period, with their devices. Returns whether there was
    /// one. A kubelet does this whenever it computes the Node object's quantities (`GetCapacity`).
    pub(crate) fn expire_endpoints(&mut self, now: Instant) -> bool {
        let grace_period = self.endpoint_stop_grace_period;
        let count = self.endpoints.len();
        self.endpoints.retain(|_, endpoint| {
            endpoint
                .stopped
                .is_none_or(|stopped| now.duration_since(stopped) < grace_period)
        });
        self.lists
            .retain(|resource, _| self.endpoints.contains_key(resource));
        self.endpoints.len() < count
    }

    /// Returns what the Node object shows (`GetCapacity`).
    pub(crate) fn node_resources(&self) -> NodeResources {
        self.known_resources
            .iter()
            .map(|resource| (resource.clone(), self.quantities(resource)))
            .collect()
    }

    /// Returns the endpoint of a resource, or `None` if no plugin ever registered the resource or the kubelet forgot
    /// it. The kubelet then starts pods without devices of that resource.
    pub(crate) fn endpoint(&self, resource: &str) -> Option<&Endpoint<C>> {
        self.endpoints.get(resource)
    }

    /// Returns the healthy devices of each resource, in the form of the checkpoint.
    pub(crate) fn healthy_devices(&self) -> BTreeMap<String, Vec<String>> {
        let healthy = |list: &DeviceList| list.healthy.iter().cloned().collect();
        self.lists
            .iter()
            .map(|(resource, list)| (resource.clone(), healthy(list)))
            .collect()
    }

    /// Returns the resource and the ID of each healthy device, once for each of its NUMA nodes (`GetAllocatableDevices`,
    /// and `containerDevicesFromResourceDeviceInstances` in `container_manager.go`). A device without topology occurs
    /// once, and one whose topology has no nodes does not occur.
    pub(crate) fn allocatable_devices(&self) -> Vec<(String, String)> {
        let mut entries = Vec::new();
        for (resource, list) in &self.lists {
            for id in &list.healthy {
                let count = list.numa_nodes.get(id).map_or(1, Vec::len);
                entries.extend(std::iter::repeat_n((resource.clone(), id.clone()), count));
            }
        }
        entries
    }

    /// Returns the assignments of all pods, including deleted pods whose devices are not freed yet.
    pub(crate) fn assignments(&self) -> &[Assignment] {
        &self.assignments
    }

    pub(crate) fn assignments_of<'a>(
        &'a self,
        pod: &'a str,
        container: &'a str,
    ) -> impl Iterator<Item = &'a Assignment> {
        let assignments = self.assignments.iter();
        assignments.filter(move |a| a.pod == pod && a.container == container)
    }

    /// `UpdateAllocatedDevices`: frees the devices of every pod that is not active. If there is such a pod, the
    /// allocated devices are those that the other pods hold.
    pub(crate) fn retain_pods(&mut self, is_active: impl Fn(&str) -> bool) {
        let count = self.assignments.len();
        self.assignments.retain(|held| is_active(&held.pod));
        if self.assignments.len() < count {
            self.restore_allocated();
        }
    }

    /// Makes the allocated devices those that pods hold, as the kubelet does when Allocate fails.
    pub(crate) fn restore_allocated(&mut self) {
        self.allocated.clear();
        add_devices(&mut self.allocated, &self.assignments);
    }

    fn is_listed(&self, resource: &str, id: &str) -> bool {
        let list = self.lists.get(resource);
        list.is_some_and(|list| list.contains(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use simple_device_plugin::model::device::Health;

    pub(super) fn device(id: &str, health: Health) -> v1beta1::Device {
        v1beta1::Device {
            id: id.to_owned(),
            health: health.as_str().to_owned(),
            topology: None,
        }
    }

    /// Returns a healthy device with these NUMA nodes.
    pub(super) fn device_on(id: &str, nodes: &[i64]) -> v1beta1::Device {
        let nodes = nodes.iter().map(|id| v1beta1::NumaNode { id: *id });
        v1beta1::Device {
            topology: Some(v1beta1::TopologyInfo {
                nodes: nodes.collect(),
            }),
            ..device(id, Health::Healthy)
        }
    }

    /// Returns a device manager with one resource, `r`, and these devices.
    pub(super) fn manager_with(devices: Vec<v1beta1::Device>, now: Instant) -> DeviceManager<()> {
        let grace_period = Duration::from_secs(300);
        let mut manager = DeviceManager::from_checkpoint(grace_period, Vec::new(), Vec::new(), now);
        manager.plugin_connected("r", (), v1beta1::DevicePluginOptions::default());
        manager.update_devices("r", v1beta1::ListAndWatchResponse { devices });
        manager
    }

    /// Returns a device manager with one resource, `r`, and these healthy devices.
    pub(super) fn manager_with_devices(ids: &[&str]) -> DeviceManager<()> {
        let devices = ids.iter().map(|id| device(id, Health::Healthy));
        manager_with(devices.collect(), Instant::now())
    }

    /// Returns capacity and allocatable of `r`.
    fn quantities(manager: &DeviceManager<()>) -> (usize, usize) {
        let quantities = manager.node_resources()["r"];
        (quantities.capacity, quantities.allocatable)
    }

    #[test]
    fn a_plugin_that_disconnects_before_its_first_list_has_no_devices_to_allocate() {
        let mut manager = manager_with_devices(&[]);
        let now = Instant::now();
        manager.plugin_connected("new", (), v1beta1::DevicePluginOptions::default());
        manager.plugin_disconnected("new", now);
        assert!(!manager.is_device_plugin_resource("new"));
        assert!(!manager.healthy_devices().contains_key("new"));
        assert_eq!(manager.node_resources()["new"], Quantities::default());
    }

    #[test]
    fn a_repeated_id_counts_once_per_health() {
        let now = Instant::now();
        let healthy = || device("a", Health::Healthy);
        let manager = manager_with(vec![healthy(), healthy()], now);
        assert_eq!(quantities(&manager), (1, 1));
        let manager = manager_with(vec![healthy(), device("a", Health::Unhealthy)], now);
        assert_eq!(quantities(&manager), (2, 1));
    }

    #[test]
    fn an_allocatable_device_occurs_once_for_each_of_its_numa_nodes() {
        let without = device("d", Health::Healthy);
        let unhealthy = device("e", Health::Unhealthy);
        let devices = vec![
            device_on("a", &[0]),
            device_on("b", &[0, 1]),
            device_on("c", &[]),
            without,
            unhealthy,
        ];
        let entries = manager_with(devices, Instant::now()).allocatable_devices();
        let ids: Vec<&str> = entries.iter().map(|(_, id)| id.as_str()).collect();
        assert_eq!(ids, ["a", "b", "b", "d"]);
    }

    #[test]
    fn an_update_returns_the_changed_devices() {
        use Health::{Healthy, Unhealthy};
        let now = Instant::now();
        let mut manager = manager_with(vec![], now);
        let mut changes = |devices: &[(&str, Health)]| -> Vec<String> {
            let devices = devices.iter().map(|(id, health)| device(id, *health));
            let message = v1beta1::ListAndWatchResponse {
                devices: devices.collect(),
            };
            let changes = manager.update_devices("r", message).into_iter();
            changes.map(|c| format!("{} {}", c.id, c.state)).collect()
        };
        assert!(changes(&[("a", Healthy), ("b", Healthy)]).is_empty());
        assert!(changes(&[("b", Healthy), ("a", Healthy)]).is_empty());
        let changed = changes(&[("a", Unhealthy), ("c", Healthy)]);
        assert_eq!(changed, ["a Unhealthy", "c Healthy", "b removed"]);
    }

    #[test]
    fn capacity_is_kept_for_the_grace_period_and_the_resource_forever() {
        let now = Instant::now();
        let mut manager = manager_with(vec![device("a", Health::Healthy)], now);
        manager.plugin_disconnected("r", now);
        assert!(!manager.expire_endpoints(now + Duration::from_secs(299)));
        assert_eq!(quantities(&manager), (1, 0));
        assert!(manager.expire_endpoints(now + Duration::from_secs(300)));
        assert_eq!(quantities(&manager), (0, 0));
        assert!(manager.endpoint("r").is_none());
    }
}
