//! The device manager's books: who offers what, which pod holds what, and what the node shows of it.
//! Follows `pkg/kubelet/cm/devicemanager/manager.go`; knows no I/O, the time is an argument.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::device::Health;
use crate::wire::v1beta1;

/// What the Node object shows of one resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quantities {
    /// All devices, whatever their health.
    pub capacity: usize,
    /// The healthy ones.
    pub allocatable: usize,
}

/// The extended resources of the Node object. A key that was there once stays, with zeros.
pub type Node = BTreeMap<String, Quantities>;

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
    #[error("{resource}: {rpc} failed: {error}")]
    Plugin {
        resource: String,
        rpc: &'static str,
        error: String,
    },
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

/// The books.
#[derive(Debug)]
pub struct DeviceManager<C> {
    grace: Duration,
    endpoints: BTreeMap<String, Endpoint<C>>,
    lists: BTreeMap<String, BTreeMap<String, v1beta1::Device>>,
    assignments: Vec<Assignment>,
    seen: BTreeSet<String>,
}

impl<C: Clone> DeviceManager<C> {
    /// The books after a start with this checkpoint: what was registered is known, but stopped and
    /// without devices until its plugin comes back.
    pub fn restored(
        grace: Duration,
        registered: impl IntoIterator<Item = String>,
        assignments: Vec<Assignment>,
        now: Instant,
    ) -> Self {
        let mut manager = Self {
            grace,
            endpoints: BTreeMap::new(),
            lists: BTreeMap::new(),
            assignments,
            seen: BTreeSet::new(),
        };
        for resource in registered {
            let endpoint = Endpoint {
                client: None,
                options: v1beta1::DevicePluginOptions::default(),
                stopped: Some(now),
            };
            manager.seen.insert(resource.clone());
            manager.lists.insert(resource.clone(), BTreeMap::new());
            manager.endpoints.insert(resource, endpoint);
        }
        manager
    }

    /// `PluginConnected`: the newest plugin takes the resource over.
    pub fn connected(&mut self, resource: &str, client: C, options: v1beta1::DevicePluginOptions) {
        let endpoint = Endpoint {
            client: Some(client),
            options,
            stopped: None,
        };
        self.endpoints.insert(resource.to_owned(), endpoint);
    }

    /// `PluginDisconnected`: whoever serves the resource now is taken for stopped, its devices for ill.
    pub fn disconnected(&mut self, resource: &str, now: Instant) {
        let Some(endpoint) = self.endpoints.get_mut(resource) else {
            return;
        };
        endpoint.stopped = Some(now);
        self.seen.insert(resource.to_owned());
        for device in self
            .lists
            .entry(resource.to_owned())
            .or_default()
            .values_mut()
        {
            device.health.clear();
            device.health.push_str(Health::Unhealthy.as_str());
        }
    }

    /// `PluginListAndWatchReceiver`: the list replaces the one before, whichever stream it came on.
    pub fn listed(&mut self, resource: &str, list: v1beta1::ListAndWatchResponse) {
        let by_id = list.devices.into_iter().map(|d| (d.id.clone(), d));
        self.lists.insert(resource.to_owned(), by_id.collect());
        self.seen.insert(resource.to_owned());
    }

    /// `GetCapacity`: forgets what has been stopped for longer than the grace, and counts the rest.
    pub fn node(&mut self, now: Instant) -> Node {
        let (endpoints, grace) = (&self.endpoints, self.grace);
        let known = |resource: &String| {
            endpoints.get(resource).is_some_and(|endpoint| {
                endpoint
                    .stopped
                    .is_none_or(|at| now.duration_since(at) < grace)
            })
        };
        self.lists.retain(|resource, _| known(resource));
        let lists = &self.lists;
        self.endpoints
            .retain(|resource, e| e.stopped.is_none() || lists.contains_key(resource));
        let quantities = |resource: &String| {
            let list = self.lists.get(resource);
            let healthy = |list: &BTreeMap<_, v1beta1::Device>| {
                list.values().filter(|device| device.is_healthy()).count()
            };
            Quantities {
                capacity: list.map_or(0, BTreeMap::len),
                allocatable: list.map_or(0, healthy),
            }
        };
        self.seen
            .iter()
            .map(|r| (r.clone(), quantities(r)))
            .collect()
    }

    /// The endpoint of a resource; `None` for one that no plugin ever offered, which the kubelet
    /// starts pods without.
    pub fn endpoint(&self, resource: &str) -> Option<&Endpoint<C>> {
        self.endpoints.get(resource)
    }

    /// The devices from which `requested` can be taken.
    pub fn available(
        &self,
        resource: &str,
        requested: usize,
    ) -> Result<Vec<String>, AdmissionError> {
        let devices = self.lists.get(resource).into_iter().flatten();
        let healthy = devices.filter(|(_, device)| device.is_healthy());
        let healthy: Vec<&String> = healthy.map(|(id, _)| id).collect();
        if healthy.is_empty() {
            return Err(AdmissionError::NoHealthyDevice(resource.to_owned()));
        }
        let of_resource = self.assignments.iter().filter(|a| a.resource == resource);
        let in_use: BTreeSet<&str> = of_resource.flat_map(Assignment::ids).collect();
        let open = healthy
            .into_iter()
            .filter(|id| !in_use.contains(id.as_str()));
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

    /// Books devices for a pod.
    pub fn assign(
        &mut self,
        pod: &str,
        resource: &str,
        ids: &[String],
        response: v1beta1::ContainerAllocateResponse,
    ) -> Assignment {
        let mut devices: BTreeMap<i64, BTreeSet<String>> = BTreeMap::new();
        for id in ids {
            for node in self.numa_nodes(resource, id) {
                devices.entry(node).or_default().insert(id.clone());
            }
        }
        let assignment = Assignment {
            pod: pod.to_owned(),
            resource: resource.to_owned(),
            devices,
            response,
        };
        self.assignments.push(assignment.clone());
        assignment
    }

    fn numa_nodes(&self, resource: &str, id: &str) -> Vec<i64> {
        let device = self.lists.get(resource).and_then(|list| list.get(id));
        let topology = device.and_then(|device| device.topology.as_ref());
        match topology {
            Some(topology) if !topology.nodes.is_empty() => {
                topology.nodes.iter().map(|node| node.id).collect()
            }
            _ => vec![-1],
        }
    }

    /// Frees what the pod holds.
    pub fn release(&mut self, pod: &str) {
        self.assignments.retain(|assignment| assignment.pod != pod);
    }

    /// What every pod holds.
    pub fn assignments(&self) -> &[Assignment] {
        &self.assignments
    }

    /// The healthy devices of each resource, for the checkpoint.
    pub fn registered(&self) -> BTreeMap<String, Vec<String>> {
        let healthy = |list: &BTreeMap<String, v1beta1::Device>| {
            let healthy = list.iter().filter(|(_, device)| device.is_healthy());
            healthy.map(|(id, _)| id.clone()).collect()
        };
        self.lists
            .iter()
            .map(|(r, list)| (r.clone(), healthy(list)))
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
pub fn take(mut available: Vec<String>, preferred: &[String], count: usize) -> Vec<String> {
    fastrand::shuffle(&mut available);
    let (mut first, rest): (Vec<_>, Vec<_>) =
        available.into_iter().partition(|id| preferred.contains(id));
    first.extend(rest);
    first.truncate(count);
    first
}
