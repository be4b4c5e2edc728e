//! The pod-resources API, which lists the devices of each pod. It follows
//! `pkg/kubelet/apis/podresources/server_v1.go`.

use std::collections::BTreeMap;
use std::io;
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

use crate::checkpoint::CONTAINER;
use crate::device_manager::Assignment;
use crate::state::KubeletState;

/// The namespace of every pod.
const NAMESPACE: &str = "default";

struct PodResourcesService {
    state: Arc<KubeletState>,
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
        let service = PodResourcesListerServer::new(PodResourcesService { state: self });
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

    /// Returns the assignments of each running pod, or nothing before the pods are known. Also frees the devices of
    /// deleted pods without writing the checkpoint (`List` calls `UpdateAllocatedDevices`).
    fn assignments_by_pod(&self) -> BTreeMap<String, Vec<Assignment>> {
        if !self.are_pods_known() {
            return BTreeMap::new();
        }
        self.free_devices_of_deleted_pods();
        let mut pods: BTreeMap<String, Vec<Assignment>> = BTreeMap::new();
        for name in self.pods().iter() {
            pods.insert(name.clone(), Vec::new());
        }
        for assignment in self.manager().assignments() {
            if let Some(assignments) = pods.get_mut(&assignment.pod) {
                assignments.push(assignment.clone());
            }
        }
        pods
    }
}

#[tonic::async_trait]
impl PodResourcesLister for PodResourcesService {
    async fn list(
        &self,
        _: Request<ListPodResourcesRequest>,
    ) -> Result<Response<ListPodResourcesResponse>, Status> {
        if self.state.stop.is_cancelled() {
            return Err(Status::unavailable("the kubelet is stopping"));
        }
        let pods = self.state.assignments_by_pod().into_iter();
        Ok(Response::new(ListPodResourcesResponse {
            pod_resources: pods
                .map(|(name, assignments)| pod_resources(name, &assignments))
                .collect(),
        }))
    }
}

fn pod_resources(name: String, assignments: &[Assignment]) -> PodResources {
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
