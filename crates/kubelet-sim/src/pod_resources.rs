//! The pod-resources API, which lists the devices of each pod and the healthy devices. It follows
//! `pkg/kubelet/apis/podresources/server_v1.go`.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tracing::warn;

use simple_device_plugin::api::podresources::pod_resources_lister_server::{
    PodResourcesLister, PodResourcesListerServer,
};
use simple_device_plugin::api::podresources::{
    AllocatableResourcesRequest, AllocatableResourcesResponse, ContainerDevices,
    ContainerResources, GetPodResourcesRequest, GetPodResourcesResponse, ListPodResourcesRequest,
    ListPodResourcesResponse, PodResources,
};
use simple_device_plugin::util::sanitize::sanitize;

use crate::device_manager::{Assignment, DeviceManager};
use crate::pod::{ContainerKind, Pod};
use crate::state::KubeletState;

/// The namespace of every pod.
const NAMESPACE: &str = "default";

/// The limit of the calls of all clients and methods together (`podresources/constants.go`): the calls per second, and
/// how many may come at once.
const CALLS_PER_SECOND: f64 = 100.0;
const BURST: f64 = 10.0;

struct PodResourcesService {
    state: Arc<KubeletState>,
    limit: Mutex<RateLimit>,
}

/// A token bucket. The time is an argument.
struct RateLimit {
    tokens: f64,
    updated: Instant,
}

impl RateLimit {
    fn new(now: Instant) -> Self {
        Self {
            tokens: BURST,
            updated: now,
        }
    }

    /// Takes a token. Returns false if there is none.
    fn allows(&mut self, now: Instant) -> bool {
        let elapsed: Duration = now.duration_since(self.updated);
        let refilled = self.tokens + elapsed.as_secs_f64() * CALLS_PER_SECOND;
        (self.tokens, self.updated) = (refilled.min(BURST), now);
        let is_allowed = self.tokens >= 1.0;
        if is_allowed {
            self.tokens -= 1.0;
        }
        is_allowed
    }
}

impl KubeletState {
    /// Serves the API on a socket until the kubelet stops. An existing file at that path is replaced.
    pub(crate) fn serve_pod_resources(self: Arc<Self>, socket: &Path) -> io::Result<()> {
        if let Some(dir) = socket.parent() {
            std::fs::create_dir_all(dir)?;
        }
        match std::fs::remove_file(socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let incoming = UnixListenerStream::new(UnixListener::bind(socket)?);
        let (tasks, stop) = (self.tasks.clone(), self.stop.clone());
        let service = PodResourcesListerServer::new(PodResourcesService {
            state: self,
            limit: Mutex::new(RateLimit::new(Instant::now())),
        });
        let serve = async move {
            let server = Server::builder().add_service(service);
            if let Err(error) = server.serve_with_incoming(incoming).await {
                warn!(%error, "the pod-resources server failed");
            }
        };
        // The server is dropped, because a graceful shutdown would wait for clients that keep their connection open.
        tasks.spawn(stop.run_until_cancelled_owned(serve));
        Ok(())
    }

    /// Returns each active pod with the devices of its containers, or nothing before the pods are known. Also frees the
    /// devices of other pods without writing the checkpoint (`List` calls `UpdateAllocatedDevices`).
    fn list_pod_resources(&self) -> Vec<PodResources> {
        if !self.are_pods_known() {
            return Vec::new();
        }
        self.free_devices_of_inactive_pods();
        let pods = self.pods();
        let manager = self.manager();
        pods.iter()
            .map(|pod| pod_resources(&manager, pod))
            .collect()
    }

    /// Returns an active pod with the devices of its containers. Unlike List, this frees no devices.
    fn get_pod_resources(&self, namespace: &str, name: &str) -> Option<PodResources> {
        let pods = self.pods();
        let pod = pods.get(name)?;
        let is_known = namespace == NAMESPACE && self.are_pods_known();
        is_known.then(|| pod_resources(&self.manager(), pod))
    }
}

impl PodResourcesService {
    fn check(&self) -> Result<(), Status> {
        if self.state.stop.is_cancelled() {
            return Err(Status::unavailable("the kubelet is stopping"));
        }
        if self.limit.lock().allows(Instant::now()) {
            Ok(())
        } else {
            Err(Status::resource_exhausted("rejected by rate limit"))
        }
    }
}

#[tonic::async_trait]
impl PodResourcesLister for PodResourcesService {
    async fn list(
        &self,
        _: Request<ListPodResourcesRequest>,
    ) -> Result<Response<ListPodResourcesResponse>, Status> {
        self.check()?;
        Ok(Response::new(ListPodResourcesResponse {
            pod_resources: self.state.list_pod_resources(),
        }))
    }

    async fn get_allocatable_resources(
        &self,
        _: Request<AllocatableResourcesRequest>,
    ) -> Result<Response<AllocatableResourcesResponse>, Status> {
        self.check()?;
        let devices = self.state.manager().allocatable_devices().into_iter();
        Ok(Response::new(AllocatableResourcesResponse {
            devices: devices
                .map(|(resource, id)| container_device(resource, id))
                .collect(),
        }))
    }

    async fn get(
        &self,
        request: Request<GetPodResourcesRequest>,
    ) -> Result<Response<GetPodResourcesResponse>, Status> {
        self.check()?;
        let GetPodResourcesRequest {
            pod_name,
            pod_namespace,
        } = request.into_inner();
        let pod_resources = self.state.get_pod_resources(&pod_namespace, &pod_name);
        if pod_resources.is_none() {
            let (name, namespace) = (sanitize(&pod_name), sanitize(&pod_namespace));
            return Err(Status::unknown(format!(
                "pod {name} in namespace {namespace} not found"
            )));
        }
        Ok(Response::new(GetPodResourcesResponse { pod_resources }))
    }
}

/// Returns the devices of the pod's sidecars and app containers. Init containers are omitted, even while they run.
fn pod_resources<C>(manager: &DeviceManager<C>, pod: &Pod) -> PodResources {
    let containers = pod.in_admission_order();
    let containers = containers.filter(|container| container.kind != ContainerKind::Init);
    let containers = containers.map(|container| ContainerResources {
        name: container.name.clone(),
        devices: manager
            .assignments_of(&pod.name, &container.name)
            .flat_map(container_devices)
            .collect(),
    });
    PodResources {
        name: pod.name.clone(),
        namespace: NAMESPACE.to_owned(),
        containers: containers.collect(),
    }
}

/// Returns one entry for each device and NUMA node (`containerDevicesFromResourceDeviceInstances` in
/// `container_manager.go`).
fn container_devices(assignment: &Assignment) -> impl Iterator<Item = ContainerDevices> {
    let ids = assignment.devices.values().flatten();
    ids.map(|id| container_device(assignment.resource.clone(), id.clone()))
}

fn container_device(resource_name: String, id: String) -> ContainerDevices {
    ContainerDevices {
        resource_name,
        device_ids: vec![id],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allows_a_burst_and_then_a_hundred_calls_per_second() {
        let start = Instant::now();
        let mut limit = RateLimit::new(start);
        let mut allowed = |millis| {
            let now = start + Duration::from_millis(millis);
            (0..100).take_while(|_| limit.allows(now)).count()
        };
        assert_eq!([0, 0, 9, 31, 10_000].map(&mut allowed), [10, 0, 0, 3, 10]);
    }
}
