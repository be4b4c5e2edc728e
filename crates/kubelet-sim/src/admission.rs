//! Pod admission: chooses devices and calls plugins. It follows `Allocate`, `allocateContainerResources` and
//! `callPreStartContainerIfNeeded` in `pkg/kubelet/cm/devicemanager/manager.go`.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::time::{Instant, timeout_at};
use tonic::Status;

use simple_device_plugin::api::v1beta1::ContainerAllocateResponse;
use simple_device_plugin::node::checkpoint_file::FILE;

use crate::admission_error::AdmissionError;
use crate::crash::Crash;
use crate::device_manager::{
    Assignment, Choice, DeviceRequest, Endpoint, PartialChoice, ReusableDevices,
};
use crate::kubelet::Kubelet;
use crate::plugin_client::PluginClient;
use crate::pod::{Container, Pod};
use crate::settings::TopologyPolicy;
use crate::state::{KubeletState, describe_status};
use crate::topology_manager::{self, NumaMask};

impl Kubelet {
    /// Admits a pod: chooses the devices of its containers one after the other, calls each plugin's Allocate, and
    /// returns the pod's assignments.
    ///
    /// A pod that already holds devices keeps them, and no plugin is called. With a topology manager, the kubelet
    /// checks those devices again, which can crash it.
    ///
    /// # Errors
    /// Returns an error if the kubelet cannot allocate the devices, if a plugin returns an error, or if the kubelet
    /// crashes. The pod is then not running, as if the future is dropped before the last plugin responds. Devices that
    /// its containers already got are freed like those of a deleted pod.
    pub async fn admit(&self, pod: &Pod) -> Result<Vec<Assignment>, AdmissionError> {
        let _one_at_a_time = self.admission.lock().await;
        let held = self.assignments(&pod.name);
        if !held.is_empty() {
            let readmitted = self
                .state
                .readmit_with_topology(|held| held.pod == pod.name);
            return readmitted.map(|()| held).map_err(AdmissionError::from);
        }
        let mut admission = Admission::begin(&self.state, pod);
        for container in pod.in_admission_order() {
            // The future is too large for the callers' stacks.
            Box::pin(admission.admit_container(container)).await?;
        }
        admission.complete();
        Ok(self.assignments(&pod.name))
    }

    /// Starts the containers of a pod: calls PreStartContainer of each plugin that requires it.
    ///
    /// # Errors
    /// Returns the plugin's error, which a cluster shows as `CreateContainerConfigError`. The pod keeps its devices; a
    /// real kubelet retries.
    pub async fn start_containers(&self, pod: &str) -> Result<(), Status> {
        for assignment in self.assignments(pod) {
            let endpoint = self.state.manager().endpoint(&assignment.resource).cloned();
            let endpoint =
                endpoint.ok_or_else(|| Status::not_found("the resource has no endpoint"))?;
            if endpoint.client.is_some() && endpoint.is_stopped() {
                return Err(Status::unavailable("the plugin has been stopped"));
            }
            if let Some(client) = endpoint.client
                && endpoint.options.pre_start_required
            {
                let ids = assignment.ids().into_iter().map(str::to_owned).collect();
                client.pre_start_container(ids).await?;
            }
        }
        Ok(())
    }

    /// Returns the requested resources that no plugin registered, or whose plugin the kubelet forgot. The kubelet runs
    /// the pod without their devices; a scheduler would not have placed the pod here.
    pub fn unregistered_resources(&self, pod: &Pod) -> BTreeSet<String> {
        let manager = self.state.manager();
        let requests = pod.containers.iter().flat_map(|c| &c.requests);
        let resources = requests.filter(|(_, count)| **count > 0).map(|(r, _)| r);
        resources
            .filter(|resource| !manager.is_device_plugin_resource(resource))
            .cloned()
            .collect()
    }
}

/// The admission of a pod. Unless it is complete, dropping it rejects the pod, whose devices are then freed like those
/// of a deleted pod.
struct Admission<'a> {
    state: &'a KubeletState,
    pod: &'a Pod,
    reusable: ReusableDevices,
    /// When the calls to plugins are canceled.
    deadline: Option<Instant>,
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        self.state.pods().in_admission = None;
    }
}

impl<'a> Admission<'a> {
    fn begin(state: &'a KubeletState, pod: &'a Pod) -> Self {
        // A deleted pod of the same name may still hold devices. In a cluster it would have another UID.
        state.manager().retain_pods(|name| name != pod.name);
        state.pods().in_admission = Some(pod.clone());
        let timeout = state.settings.admission_timeout();
        Self {
            state,
            pod,
            reusable: ReusableDevices::default(),
            deadline: timeout.map(|timeout| Instant::now() + timeout),
        }
    }

    fn complete(self) {
        let mut pods = self.state.pods();
        if let Some(pod) = pods.in_admission.take() {
            pods.running.insert(pod.name.clone(), pod);
        }
    }

    async fn admit_container(&mut self, container: &Container) -> Result<(), AdmissionError> {
        let affinity = self.affinity(container)?;
        let requests = self.requests(container);
        if !requests.is_empty() {
            self.state.free_devices_of_inactive_pods();
        }
        let mut is_allocated = false;
        for request in requests {
            is_allocated |= self.allocate(request, affinity).await?;
        }
        if is_allocated {
            // The kubelet writes its checkpoint before the container starts, so that the assignment survives a restart.
            let saved = self.state.save();
            saved.map_err(|error| AdmissionError::Checkpoint {
                path: self.state.settings.dir.join(FILE),
                error: error.to_string(),
            })?;
        }
        let manager = self.state.manager();
        let held = manager.assignments_of(&self.pod.name, &container.name);
        self.reusable.container_admitted(container.kind, held);
        Ok(())
    }

    /// Returns the container's requests for devices that the kubelet allocates.
    fn requests<'c>(&self, container: &'c Container) -> Vec<DeviceRequest<'c>>
    where
        'a: 'c,
    {
        let manager = self.state.manager();
        let requests = container.requests.iter();
        let requests = requests.filter(|(resource, _)| manager.is_device_plugin_resource(resource));
        let request = |(resource, count): (&'c String, &usize)| DeviceRequest {
            pod: &self.pod.name,
            container: &container.name,
            resource,
            count: *count,
        };
        requests.map(request).collect()
    }

    /// Returns the NUMA nodes from which the container's devices should come, or `None` for any.
    fn affinity(&self, container: &Container) -> Result<Option<NumaMask>, AdmissionError> {
        let settings = &self.state.settings;
        if settings.topology_policy == TopologyPolicy::None {
            return Ok(None);
        }
        self.state.free_devices_of_inactive_pods();
        let requests = self.requests(container).into_iter();
        let (host, hints) = {
            let manager = self.state.manager();
            let host = manager.host_numa_nodes(settings.numa_nodes);
            let hints = requests.map(|request| {
                let reusable = self.reusable.of(request.resource);
                manager.topology_hints(request, reusable, host)
            });
            (host, hints.collect::<Result<Vec<_>, Crash>>())
        };
        let hints = hints.inspect_err(|crash| self.state.crash(crash))?;
        topology_manager::affinity(settings.topology_policy, host, hints)
    }

    /// Allocates devices of one resource. Returns false if no device was needed.
    async fn allocate(
        &self,
        request: DeviceRequest<'_>,
        affinity: Option<NumaMask>,
    ) -> Result<bool, AdmissionError> {
        let resource = request.resource;
        let reusable = self.reusable.of(resource);
        let choice = self.state.manager().choose(request, reusable, affinity)?;
        let mut ids = match choice {
            Choice::Complete(ids) => ids,
            Choice::Partial(choice) => {
                let preferred = self.preferred_devices(resource, &choice).await?;
                self.state.manager().complete(resource, choice, &preferred)
            }
        };
        if ids.is_empty() {
            return Ok(false);
        }
        fastrand::shuffle(&mut ids);
        let response = self.call_allocate(resource, &ids).await;
        let response = response.inspect_err(|_| self.state.manager().restore_allocated())?;
        // Here the kubelet does not restore the allocated devices.
        let response = response.ok_or_else(|| AdmissionError::Plugin {
            resource: resource.to_owned(),
            rpc: "Allocate",
            error: "the response has no container".to_owned(),
        })?;
        let assigned = self
            .state
            .manager()
            .assign(request, &ids, reusable, response);
        assigned.inspect_err(|crash| self.state.crash(crash))?;
        Ok(true)
    }

    /// Asks the plugin which devices it prefers, if it has GetPreferredAllocation.
    async fn preferred_devices(
        &self,
        resource: &str,
        choice: &PartialChoice,
    ) -> Result<Vec<String>, AdmissionError> {
        let is_available = |e: &Endpoint<_>| e.options.get_preferred_allocation_available;
        if !self
            .state
            .manager()
            .endpoint(resource)
            .is_some_and(is_available)
        {
            return Ok(Vec::new());
        }
        let client = self.running_client(resource)?;
        let call = client.preferred_allocation(choice.question());
        self.response(resource, "GetPreferredAllocation", call)
            .await
    }

    async fn call_allocate(
        &self,
        resource: &str,
        ids: &[String],
    ) -> Result<Option<ContainerAllocateResponse>, AdmissionError> {
        let client = self.running_client(resource)?;
        let call = client.allocate(ids.to_vec());
        self.response(resource, "Allocate", call).await
    }

    /// Returns the client of the resource's plugin.
    ///
    /// # Errors
    /// Returns an error if the resource has no endpoint, or one that the kubelet refuses to call.
    fn running_client(&self, resource: &str) -> Result<Arc<PluginClient>, AdmissionError> {
        let manager = self.state.manager();
        let endpoint = manager.endpoint(resource).filter(|e| !e.is_stopped());
        let client = endpoint.and_then(|endpoint| endpoint.client.clone());
        client.ok_or_else(|| AdmissionError::Stopped(resource.to_owned()))
    }

    /// Waits for a plugin's response. At the deadline, the call is canceled.
    async fn response<T>(
        &self,
        resource: &str,
        rpc: &'static str,
        call: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, AdmissionError> {
        let response = match self.deadline {
            None => Some(call.await),
            Some(deadline) => timeout_at(deadline, call).await.ok(),
        };
        let resource = resource.to_owned();
        match response {
            Some(Ok(response)) => Ok(response),
            Some(Err(status)) => Err(AdmissionError::Plugin {
                resource,
                rpc,
                error: describe_status(&status),
            }),
            None => Err(AdmissionError::TimedOut { resource, rpc }),
        }
    }
}
