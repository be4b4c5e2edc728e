//! The pod-resources API: which pods hold which devices. Follows `pkg/kubelet/apis/podresources/server_v1.go`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tracing::warn;

use simple_device_plugin::api::podresources::pod_resources_lister_server::{
    PodResourcesLister, PodResourcesListerServer,
};
use simple_device_plugin::api::podresources::{
    ContainerDevices, ContainerResources, ListPodResourcesRequest, ListPodResourcesResponse,
    PodResources,
};

use super::checkpoint::CONTAINER;
use super::device_manager::Assignment;
use super::state::KubeletState;

/// Every pod is in this namespace.
const NAMESPACE: &str = "default";

struct PodResourcesService(Arc<KubeletState>);

impl KubeletState {
    /// Serves the API on the socket until the kubelet stops.
    pub fn serve_pod_resources(self: Arc<Self>, socket: &Path) -> std::io::Result<()> {
        if let Some(dir) = socket.parent() {
            std::fs::create_dir_all(dir)?;
        }
        match std::fs::remove_file(socket) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let incoming = UnixListenerStream::new(UnixListener::bind(socket)?);
        let (tasks, stop) = (self.tasks.clone(), self.stop.clone());
        let lister = PodResourcesListerServer::new(PodResourcesService(self));
        // Dropping the server, and not a shutdown, which would wait for clients that keep their connection.
        tasks.spawn(stop.run_until_cancelled_owned(async move {
            let mut server = Server::builder();
            if let Err(error) = server
                .add_service(lister)
                .serve_with_incoming(incoming)
                .await
            {
                warn!(%error, "the pod-resources server failed");
            }
        }));
        Ok(())
    }
}

#[tonic::async_trait]
impl PodResourcesLister for PodResourcesService {
    async fn list(
        &self,
        _: Request<ListPodResourcesRequest>,
    ) -> Result<Response<ListPodResourcesResponse>, Status> {
        if self.0.stop.is_cancelled() {
            return Err(Status::unavailable("the kubelet stops"));
        }
        let pod_resources = self.0.pod_resources().into_iter();
        Ok(Response::new(ListPodResourcesResponse {
            pod_resources: pod_resources.map(pod).collect(),
        }))
    }
}

fn pod((name, assignments): (String, Vec<Assignment>)) -> PodResources {
    let devices = assignments.iter().flat_map(|assignment| {
        assignment.devices.values().map(|ids| ContainerDevices {
            resource_name: assignment.resource.clone(),
            device_ids: ids.iter().cloned().collect(),
        })
    });
    PodResources {
        name,
        namespace: NAMESPACE.to_owned(),
        containers: vec![ContainerResources {
            name: CONTAINER.to_owned(),
            devices: devices.collect(),
        }],
    }
}

impl KubeletState {
    /// What each pod holds. A list frees the devices of pods that are gone, as an admission does, but does not
    /// write the checkpoint (`List` calls `UpdateAllocatedDevices`).
    fn pod_resources(&self) -> BTreeMap<String, Vec<Assignment>> {
        if !self.are_pods_known() {
            return BTreeMap::new();
        }
        self.free_devices_of_deleted_pods();
        let mut pods: BTreeMap<String, Vec<Assignment>> = BTreeMap::new();
        for name in self.pods().iter() {
            pods.insert(name.clone(), Vec::new());
        }
        for assignment in self.manager().assignments() {
            if let Some(held) = pods.get_mut(&assignment.pod) {
                held.push(assignment.clone());
            }
        }
        pods
    }
}
