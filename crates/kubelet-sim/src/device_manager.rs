//! The device manager's books: who offers what, which pod holds what, and what the node shows of it.
//! Follows `pkg/kubelet/cm/devicemanager/manager.go`; knows no I/O, the time is an argument.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::{Duration, Instant};

use thiserror::Error;

use simple_device_plugin::api::v1beta1;

use super::crash::Crash;
use super::event::{DeviceChange, DeviceState};

/// What the Node object shows of one resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quantities {
    /// All devices, whatever their health.
    pub capacity: usize,
    /// The healthy ones.
    pub allocatable: usize,
}

/// The extended resources of the Node object. A key that was there once stays, with zeros.
pub type NodeResources = BTreeMap<String, Quantities>;

/// Devices that a pod's container holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    /// The pod.
    pub pod: String,
    /// The resource.
    pub resource: String,
    /// The devices' IDs, by NUMA node; -1: no topology.
    pub devices: BTreeMap<i64, BTreeSet<String>>,
    /// What the plugin answered to Allocate.
    pub response: v1beta1::ContainerAllocateResponse,
}

impl Assignment {
    /// The devices' IDs.
    pub fn ids(&self) -> BTreeSet<&str> {
        self.devices
            .values()
            .flatten()
            .map(String::as_str)
            .collect()
    }
}

/// Why a pod is not admitted (`UnexpectedAdmissionError`).
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "each message says why")]
pub enum AdmissionError {
    #[error("{0}: there is no healthy device")]
    NoHealthyDevice(String),
    #[error("{resource}: {requested} devices are requested, {available} are available")]
    TooFew {
        resource: String,
        requested: usize,
        available: usize,
    },
    #[error("{0}: its plugin has been stopped")]
    Stopped(String),
    #[error("Resources cannot be allocated with Topology locality")]
    TopologyAffinity,
    #[error("the kubelet crashed: {0}")]
    Crashed(#[from] Crash),
    #[error("{resource}: {rpc} failed: {error}")]
    Plugin {
        resource: String,
        rpc: &'static str,
        error: String,
    },
}

impl AdmissionError {
    /// The reason that the pod's status shows.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TopologyAffinity => "TopologyAffinityError",
            _ => "UnexpectedAdmissionError",
        }
    }
}

/// The plugin that serves a resource, as the kubelet remembers it. `C` is the way to call it.
#[derive(Clone, Debug)]
pub struct Endpoint<C> {
    /// `None` after a restart of the kubelet, until the plugin registers.
    pub client: Option<C>,
    /// What GetDevicePluginOptions answered.
    pub options: v1beta1::DevicePluginOptions,
    stopped: Option<Instant>,
}

/// A resource's devices. An ID that was sent with two healths is in both sets and counts twice.
#[derive(Debug, Default)]
struct DeviceList {
    healthy: BTreeSet<String>,
    unhealthy: BTreeSet<String>,
    numa_nodes: BTreeMap<String, Vec<i64>>,
}

impl DeviceList {
    fn changes_since(&self, before: &Self) -> Vec<DeviceChange> {
        if before.healthy.is_empty() && before.unhealthy.is_empty() {
            return Vec::new();
        }
        let change = |state: DeviceState| {
            move |id: &String| DeviceChange {
                id: id.clone(),
                state,
            }
        };
        let healthy = self.healthy.difference(&before.healthy);
        let unhealthy = self.unhealthy.difference(&before.unhealthy);
        let known = |id: &&String| self.healthy.contains(*id) || self.unhealthy.contains(*id);
        let gone = before.healthy.union(&before.unhealthy);
        (unhealthy.map(change(DeviceState::Unhealthy)))
            .chain(healthy.map(change(DeviceState::Healthy)))
            .chain(
                gone.filter(|id| !known(id))
                    .map(change(DeviceState::Removed)),
            )
            .collect()
    }
}

/// The books.
#[derive(Debug)]
pub struct DeviceManager<C> {
    endpoint_stop_grace_period: Duration,
    endpoints: BTreeMap<String, Endpoint<C>>,
    lists: BTreeMap<String, DeviceList>,
    assignments: Vec<Assignment>,
    known_resources: BTreeSet<String>,
}

impl<C: Clone> DeviceManager<C> {
    /// The books after a start with this checkpoint: what was registered is known, but stopped and
    /// without devices until its plugin comes back.
    pub fn from_checkpoint(
        endpoint_stop_grace_period: Duration,
        registered: Vec<String>,
        assignments: Vec<Assignment>,
        now: Instant,
    ) -> Self {
        let endpoint = || Endpoint {
            client: None,
            options: v1beta1::DevicePluginOptions::default(),
            stopped: Some(now),
        };
        Self {
            endpoint_stop_grace_period,
            endpoints: registered.iter().map(|r| (r.clone(), endpoint())).collect(),
            lists: registered
                .iter()
                .map(|r| (r.clone(), DeviceList::default()))
                .collect(),
            assignments,
            known_resources: registered.into_iter().collect(),
        }
    }

    /// `PluginConnected`: the newest plugin takes the resource over.
    pub fn plugin_connected(
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

    /// `PluginDisconnected`: whoever serves the resource now is taken for stopped, its devices for ill.
    pub fn plugin_disconnected(&mut self, resource: &str, now: Instant) {
        let Some(endpoint) = self.endpoints.get_mut(resource) else {
            return;
        };
        endpoint.stopped = Some(now);
        self.known_resources.insert(resource.to_owned());
        let list = self.lists.entry(resource.to_owned()).or_default();
        list.unhealthy.append(&mut list.healthy);
    }

    /// `PluginListAndWatchReceiver`: the list replaces the one before, whichever stream it came on.
    /// Returns the differences; none where there was no device before.
    pub fn update_devices(
        &mut self,
        resource: &str,
        message: v1beta1::ListAndWatchResponse,
    ) -> Vec<DeviceChange> {
        let mut list = DeviceList::default();
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
        self.known_resources.insert(resource.to_owned());
        let before = self.lists.entry(resource.to_owned()).or_default();
        let changes = list.changes_since(before);
        *before = list;
        changes
    }

    /// When the next of those that stopped is forgotten.
    pub fn next_expiry(&self) -> Option<Instant> {
        let stopped = self.endpoints.values().filter_map(|e| e.stopped);
        stopped
            .min()
            .map(|first| first + self.endpoint_stop_grace_period)
    }

    /// The resource's devices on the Node.
    pub fn quantities(&self, resource: &str) -> Quantities {
        let list = self.lists.get(resource);
        let (healthy, unhealthy) =
            list.map_or((0, 0), |list| (list.healthy.len(), list.unhealthy.len()));
        Quantities {
            capacity: healthy + unhealthy,
            allocatable: healthy,
        }
    }

    /// `GetCapacity`: forgets what has been stopped for longer than the grace, and counts the rest.
    pub fn node_resources(&mut self, now: Instant) -> NodeResources {
        let grace = self.endpoint_stop_grace_period;
        self.endpoints.retain(|_, endpoint| {
            endpoint
                .stopped
                .is_none_or(|stopped| now.duration_since(stopped) < grace)
        });
        self.lists
            .retain(|resource, _| self.endpoints.contains_key(resource));
        self.known_resources
            .iter()
            .map(|resource| (resource.clone(), self.quantities(resource)))
            .collect()
    }

    /// The endpoint of a resource; `None` for one that no plugin offers or that is forgotten, which the
    /// kubelet starts pods without.
    pub fn endpoint(&self, resource: &str) -> Option<&Endpoint<C>> {
        self.endpoints.get(resource)
    }

    /// The devices from which `requested` can be taken.
    pub fn free_devices(
        &self,
        resource: &str,
        requested: usize,
    ) -> Result<Vec<String>, AdmissionError> {
        let healthy = self.lists.get(resource).map(|list| &list.healthy);
        let Some(healthy) = healthy.filter(|healthy| !healthy.is_empty()) else {
            return Err(AdmissionError::NoHealthyDevice(resource.to_owned()));
        };
        let of_resource = self.assignments.iter().filter(|a| a.resource == resource);
        let in_use: BTreeSet<&str> = of_resource.flat_map(Assignment::ids).collect();
        let open = healthy.iter().filter(|id| !in_use.contains(id.as_str()));
        let open: Vec<String> = open.cloned().collect();
        if open.len() < requested {
            return Err(AdmissionError::TooFew {
                resource: resource.to_owned(),
                requested,
                available: open.len(),
            });
        }
        Ok(open)
    }

    /// The NUMA node that has enough free devices of each resource, the lowest of several. Resources
    /// without topology fit anywhere; `None` where none has any.
    ///
    /// # Errors
    /// When no node has.
    pub fn numa_node_for<'a>(
        &self,
        requests: impl Iterator<Item = (&'a String, &'a usize)> + Clone,
    ) -> Result<Option<i64>, AdmissionError> {
        let aligned = requests.filter(|(resource, _)| self.has_topology(resource));
        let nodes = aligned
            .clone()
            .flat_map(|(resource, _)| self.lists[resource].numa_nodes.values());
        let nodes: BTreeSet<i64> = nodes.flatten().copied().collect();
        let enough = |node: &i64, resource: &str, count: usize| {
            let free = self.free_devices(resource, count).unwrap_or_default();
            free.iter()
                .filter(|id| self.is_on_numa_node(resource, id, *node))
                .count()
                >= count
        };
        let mut fitting = nodes.iter().filter(|node| {
            let mut requests = aligned.clone();
            requests.all(|(resource, count)| enough(node, resource, *count))
        });
        match (nodes.is_empty(), fitting.next()) {
            (true, _) => Ok(None),
            (false, Some(node)) => Ok(Some(*node)),
            (false, None) => Err(AdmissionError::TopologyAffinity),
        }
    }

    /// Whether the device is near the NUMA node; every one is where the resource has no topology.
    pub fn is_on_numa_node(&self, resource: &str, id: &str, node: i64) -> bool {
        !self.has_topology(resource) || self.numa_nodes(resource, id).contains(&node)
    }

    /// `deviceHasTopologyAlignment`.
    fn has_topology(&self, resource: &str) -> bool {
        self.lists
            .get(resource)
            .is_some_and(|list| !list.numa_nodes.is_empty())
    }

    /// Pods that hold devices of this resource are admitted again, as at the kubelet's start or an in-place
    /// resize, with a topology manager.
    ///
    /// # Errors
    /// When the list lacks one of them: there is no nil check.
    pub fn readmit_pods(&self, resource: &str) -> Result<(), Crash> {
        if !self.has_topology(resource) {
            return Ok(());
        }
        let holding = self.assignments.iter().filter(|a| a.resource == resource);
        for assignment in holding {
            if let Some(id) = assignment
                .ids()
                .into_iter()
                .find(|id| !self.is_listed(resource, id))
            {
                return Err(Crash::RemovedWhileHeld {
                    resource: resource.to_owned(),
                    id: id.to_owned(),
                    pod: assignment.pod.clone(),
                });
            }
        }
        Ok(())
    }

    fn is_listed(&self, resource: &str, id: &str) -> bool {
        let list = self.lists.get(resource);
        list.is_some_and(|list| list.healthy.contains(id) || list.unhealthy.contains(id))
    }

    /// These devices for a pod, as they would be booked.
    ///
    /// # Errors
    /// When the list lacks one of them: there is no nil check.
    pub fn new_assignment(
        &self,
        pod: &str,
        resource: &str,
        ids: &[String],
        response: v1beta1::ContainerAllocateResponse,
    ) -> Result<Assignment, Crash> {
        if let Some(id) = ids.iter().find(|id| !self.is_listed(resource, id)) {
            return Err(Crash::RemovedDuringAllocation {
                resource: resource.to_owned(),
                id: id.clone(),
            });
        }
        let mut devices: BTreeMap<i64, BTreeSet<String>> = BTreeMap::new();
        for id in ids {
            for node in self.numa_nodes(resource, id) {
                devices.entry(node).or_default().insert(id.clone());
            }
        }
        Ok(Assignment {
            pod: pod.to_owned(),
            resource: resource.to_owned(),
            devices,
            response,
        })
    }

    /// Books devices for their pods.
    pub fn record_assignments(&mut self, assignments: &[Assignment]) {
        self.assignments.extend_from_slice(assignments);
    }

    fn numa_nodes(&self, resource: &str, id: &str) -> Vec<i64> {
        let list = self.lists.get(resource);
        let known = list.and_then(|list| list.numa_nodes.get(id)).cloned();
        known.filter(|nodes| !nodes.is_empty()).unwrap_or(vec![-1])
    }

    /// Frees what other pods than these hold.
    pub fn retain_pods(&mut self, pods: &BTreeSet<String>) {
        self.assignments
            .retain(|assignment| pods.contains(&assignment.pod));
    }

    /// Frees what the pod holds.
    pub fn release_pod(&mut self, pod: &str) {
        self.assignments.retain(|assignment| assignment.pod != pod);
    }

    /// What every pod holds.
    pub fn assignments(&self) -> &[Assignment] {
        &self.assignments
    }

    /// The healthy devices of each resource, for the checkpoint.
    pub fn healthy_devices(&self) -> BTreeMap<String, Vec<String>> {
        let healthy = |list: &DeviceList| list.healthy.iter().cloned().collect();
        self.lists
            .iter()
            .map(|(resource, list)| (resource.clone(), healthy(list)))
            .collect()
    }
}

impl<C> Endpoint<C> {
    /// Whether the kubelet refuses to call it (`isStopped`).
    pub fn is_stopped(&self) -> bool {
        self.stopped.is_some()
    }
}

/// What to take from the available devices: what the plugin prefers, then any. The kubelet's sets have
/// no order; here the rest is drawn at random.
pub fn choose_devices(
    mut available: Vec<String>,
    preferred: &[String],
    count: usize,
) -> Vec<String> {
    fastrand::shuffle(&mut available);
    let preferred: HashSet<&String> = preferred.iter().collect();
    let (mut first, rest): (Vec<_>, Vec<_>) =
        available.into_iter().partition(|id| preferred.contains(id));
    first.extend(rest);
    first.truncate(count);
    first
}

#[cfg(test)]
mod tests {
    use super::*;
    use simple_device_plugin::model::device::Health;

    fn device(id: &str, health: Health) -> v1beta1::Device {
        v1beta1::Device {
            id: id.to_owned(),
            health: health.as_str().to_owned(),
            topology: None,
        }
    }

    fn listed(devices: Vec<v1beta1::Device>, now: Instant) -> DeviceManager<()> {
        let grace = Duration::from_secs(300);
        let mut manager = DeviceManager::from_checkpoint(grace, Vec::new(), Vec::new(), now);
        manager.plugin_connected("r", (), v1beta1::DevicePluginOptions::default());
        manager.update_devices("r", v1beta1::ListAndWatchResponse { devices });
        manager
    }

    fn shown(manager: &mut DeviceManager<()>, now: Instant) -> (usize, usize) {
        let shown = manager.node_resources(now)["r"];
        (shown.capacity, shown.allocatable)
    }

    #[test]
    fn an_id_counts_once_but_with_two_healths_twice() {
        let now = Instant::now();
        let healthy = || device("a", Health::Healthy);
        let mut manager = listed(vec![healthy(), healthy()], now);
        assert_eq!(shown(&mut manager, now), (1, 1));
        let mut manager = listed(vec![healthy(), device("a", Health::Unhealthy)], now);
        assert_eq!(shown(&mut manager, now), (2, 1));
    }

    #[test]
    fn a_list_tells_what_is_different() {
        use Health::{Healthy, Unhealthy};
        let now = Instant::now();
        let mut manager = listed(vec![], now);
        let mut differs = |devices: &[(&str, Health)]| -> Vec<String> {
            let devices = devices.iter().map(|(id, health)| device(id, *health));
            let message = v1beta1::ListAndWatchResponse {
                devices: devices.collect(),
            };
            let changes = manager.update_devices("r", message).into_iter();
            changes.map(|c| format!("{} {}", c.id, c.state)).collect()
        };
        assert!(differs(&[("a", Healthy), ("b", Healthy)]).is_empty());
        assert!(differs(&[("b", Healthy), ("a", Healthy)]).is_empty());
        let told = differs(&[("a", Unhealthy), ("c", Healthy)]);
        assert_eq!(told, ["a Unhealthy", "c Healthy", "b gone"]);
    }

    #[test]
    fn capacity_outlives_the_plugin_by_the_grace_and_the_key_stays() {
        let now = Instant::now();
        let mut manager = listed(vec![device("a", Health::Healthy)], now);
        manager.plugin_disconnected("r", now);
        assert_eq!(shown(&mut manager, now + Duration::from_secs(299)), (1, 0));
        assert_eq!(shown(&mut manager, now + Duration::from_secs(300)), (0, 0));
        assert!(manager.endpoint("r").is_none());
    }

    #[test]
    fn what_is_preferred_is_taken_first_and_the_rest_at_random() {
        let ids = |range: std::ops::Range<u32>| range.map(|i| i.to_string()).collect::<Vec<_>>();
        let taken = choose_devices(ids(0..9), &["7".to_owned(), "x".to_owned()], 3);
        assert_eq!((taken.len(), &*taken[0]), (3, "7"));
    }
}
