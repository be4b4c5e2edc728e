//! Pod admission: chooses devices and calls plugins. It follows `Allocate`, `devicesToAllocate` and
//! `callPreStartContainerIfNeeded` in `pkg/kubelet/cm/devicemanager/manager.go`.

use std::collections::BTreeMap;

use tonic::Status;

use simple_device_plugin::api::PreferenceRequest;

use crate::admission_error::AdmissionError;
use crate::device_manager::{Assignment, choose_devices};
use crate::kubelet::Kubelet;
use crate::settings::TopologyPolicy;
use crate::state::describe_status;

/// A pod with one container, bound to this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// The name, unique on the node. It is also the pod's UID.
    pub name: String,
    /// The number of devices that the container requests, by resource name.
    pub requests: BTreeMap<String, usize>,
}

impl Kubelet {
    /// Admits a pod: chooses its devices, calls each plugin's Allocate, and returns the pod's assignments.
    ///
    /// A pod that already holds devices keeps them, and no plugin is called. With a topology manager, the kubelet
    /// checks those devices again, which can crash it.
    ///
    /// # Errors
    /// Returns an error if the kubelet cannot allocate the devices, if a plugin returns an error, or if the kubelet
    /// crashes. A pod that held no device then still holds none. The same is true if the future is dropped before the
    /// last plugin responds.
    pub async fn admit(&self, pod: &Pod) -> Result<Vec<Assignment>, AdmissionError> {
        let _admission = self.admission.lock().await;
        let held = self.assignments(&pod.name);
        if !held.is_empty() {
            for assignment in &held {
                self.state.readmit_pods(&assignment.resource)?;
            }
            return Ok(held);
        }
        // A deleted pod of the same name may still hold devices. In a cluster it would have another UID.
        self.state.manager().release_pod(&pod.name);
        let requests = requests(pod);
        let node = match self.state.settings.topology_policy {
            TopologyPolicy::None => None,
            TopologyPolicy::SingleNumaNode => {
                self.state.free_devices_of_deleted_pods();
                self.state.manager().numa_node_for(&requests)?
            }
        };
        let mut assignments = Vec::new();
        for (resource, count) in requests {
            assignments.extend(self.allocate(&pod.name, resource, count, node).await?);
        }
        self.state.pods().insert(pod.name.clone());
        self.state.manager().record_assignments(&assignments);
        if !assignments.is_empty() {
            // The kubelet writes its checkpoint before the pod starts, so that the assignment survives a restart.
            self.state.save();
        }
        Ok(assignments)
    }

    /// Starts the container of a pod: calls PreStartContainer of each plugin that requires it.
    ///
    /// # Errors
    /// Returns the plugin's error, which a cluster shows as `CreateContainerConfigError`. The pod keeps its devices; a
    /// real kubelet retries.
    pub async fn start_container(&self, pod: &str) -> Result<(), Status> {
        for assignment in self.assignments(pod) {
            let endpoint = self.state.manager().endpoint(&assignment.resource).cloned();
            let Some(endpoint) = endpoint else {
                continue;
            };
            if let Some(client) = endpoint.client
                && endpoint.options.pre_start_required
            {
                let ids = assignment.ids().into_iter().map(str::to_owned).collect();
                client.pre_start_container(ids).await?;
            }
        }
        Ok(())
    }

    /// Returns the requested resources that have no endpoint: no plugin registered them, or the kubelet forgot the
    /// plugin. The kubelet runs the pod without their devices; a scheduler would not have placed the pod here.
    pub fn unregistered_resources(&self, pod: &Pod) -> Vec<String> {
        let manager = self.state.manager();
        let resources = requests(pod).into_iter().map(|(resource, _)| resource);
        resources
            .filter(|resource| manager.endpoint(resource).is_none())
            .map(str::to_owned)
            .collect()
    }

    /// Allocates devices of one resource, from one NUMA node if one is given. Returns `None` if no plugin registered
    /// the resource.
    async fn allocate(
        &self,
        pod: &str,
        resource: &str,
        count: usize,
        node: Option<i64>,
    ) -> Result<Option<Assignment>, AdmissionError> {
        let Some(endpoint) = self.state.manager().endpoint(resource).cloned() else {
            return Ok(None);
        };
        let available = self.available_devices(resource, count, node)?;
        let stopped = || AdmissionError::Stopped(resource.to_owned());
        let client = endpoint.client.as_ref().ok_or_else(stopped)?;
        let mut preferred = Vec::new();
        if endpoint.options.get_preferred_allocation_available && !endpoint.is_stopped() {
            let question = PreferenceRequest {
                available: available.clone(),
                must_include: Vec::new(),
                size: count,
            };
            let response = client.preferred_allocation(question).await;
            preferred = response
                .map_err(|status| plugin_error(resource, "GetPreferredAllocation", &status))?;
        }
        let ids = choose_devices(available, &preferred, count);
        if self.is_stopped(resource) {
            return Err(stopped());
        }
        let response = client.allocate(ids.clone()).await;
        let response = response.map_err(|status| plugin_error(resource, "Allocate", &status))?;
        let assignment = self
            .state
            .manager()
            .new_assignment(pod, resource, &ids, response);
        if let Err(crash) = &assignment {
            self.state.crash(crash);
        }
        Ok(Some(assignment?))
    }

    /// Returns the free devices of a resource, restricted to one NUMA node if one is given.
    ///
    /// # Errors
    /// Returns an error if fewer than `count` devices are free on all NUMA nodes together.
    fn available_devices(
        &self,
        resource: &str,
        count: usize,
        node: Option<i64>,
    ) -> Result<Vec<String>, AdmissionError> {
        self.state.free_devices_of_deleted_pods();
        let manager = self.state.manager();
        let mut available = manager.free_devices(resource, count)?;
        if let Some(node) = node {
            available.retain(|id| manager.is_on_numa_node(resource, id, node));
        }
        Ok(available)
    }

    /// Returns whether the resource has no endpoint, or one that the kubelet refuses to call.
    fn is_stopped(&self, resource: &str) -> bool {
        match self.state.manager().endpoint(resource) {
            Some(endpoint) => endpoint.is_stopped(),
            None => true,
        }
    }
}

/// Returns the pod's requests as resource name and count, without those for 0 devices.
fn requests(pod: &Pod) -> Vec<(&str, usize)> {
    let requests = pod.requests.iter().filter(|(_, count)| **count > 0);
    requests
        .map(|(resource, count)| (resource.as_str(), *count))
        .collect()
}

fn plugin_error(resource: &str, rpc: &'static str, status: &Status) -> AdmissionError {
    AdmissionError::Plugin {
        resource: resource.to_owned(),
        rpc,
        error: describe_status(status),
    }
}
