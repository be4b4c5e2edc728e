//! The five RPCs of `v1beta1.DevicePlugin`, each a view of the resource and its devices.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tracing::{trace, warn};

use crate::allocation::{AllocateError, Allocation, allocate};
use crate::connections::{ConnectionId, Peers};
use crate::device::Devices;
use crate::foreign::foreign;
use crate::preference::prefer;
use crate::resource::Resource;
use crate::wire::v1beta1::device_plugin_server::DevicePlugin;
use crate::wire::{self, v1beta1};

/// One resource's answers to the kubelet.
pub struct Service {
    pub resource: Arc<Resource>,
    pub devices: watch::Receiver<Arc<Devices>>,
    pub peers: Peers,
    /// Ends the streams, with OK; the other RPCs go on.
    pub ending: CancellationToken,
}

type ListStream = Pin<Box<dyn Stream<Item = Result<v1beta1::ListAndWatchResponse, Status>> + Send>>;

#[tonic::async_trait]
impl DevicePlugin for Service {
    type ListAndWatchStream = ListStream;

    async fn get_device_plugin_options(
        &self,
        request: Request<v1beta1::Empty>,
    ) -> Result<Response<v1beta1::DevicePluginOptions>, Status> {
        let resource = &self.resource.name;
        trace!(%resource, "DevicePlugin.get_device_plugin_options");
        let connection = connection(&request)?;
        self.peers
            .note(connection, |peer| peer.asked_options = true);
        Ok(Response::new(wire::options(&self.resource)))
    }

    async fn list_and_watch(
        &self,
        request: Request<v1beta1::Empty>,
    ) -> Result<Response<ListStream>, Status> {
        let resource = self.resource.name.clone();
        trace!(%resource, "DevicePlugin.list_and_watch");
        let open = OpenStream::new(self.peers.clone(), connection(&request)?);
        let lists = WatchStream::new(self.devices.clone()).map(move |devices| {
            let _until_dropped = &open;
            let count = devices.len();
            trace!(%resource, count, "DevicePlugin.list_and_watch.send");
            Ok(v1beta1::ListAndWatchResponse::from(&*devices))
        });
        let ending = self.ending.clone().cancelled_owned();
        Ok(Response::new(Box::pin(lists.take_until(ending))))
    }

    async fn get_preferred_allocation(
        &self,
        request: Request<v1beta1::PreferredAllocationRequest>,
    ) -> Result<Response<v1beta1::PreferredAllocationResponse>, Status> {
        let resource = &self.resource.name;
        trace!(%resource, "DevicePlugin.get_preferred_allocation");
        self.peers.note_call(connection(&request)?);
        let (devices, policy) = (self.devices.borrow().clone(), self.resource.preference);
        let answers = wire::preferences(request.into_inner())
            .map(|q| prefer(&devices, policy, &q.available, &q.must_include, q.size));
        Ok(Response::new(wire::preferred(answers)))
    }

    async fn allocate(
        &self,
        request: Request<v1beta1::AllocateRequest>,
    ) -> Result<Response<v1beta1::AllocateResponse>, Status> {
        self.peers.note_call(connection(&request)?);
        let devices = self.devices.borrow().clone();
        let answers: Result<Vec<Allocation>, Status> = wire::allocations(request.into_inner())
            .map(|ids| self.allocate_container(&devices, &ids))
            .collect();
        Ok(Response::new(wire::allocated(answers?)))
    }

    async fn pre_start_container(
        &self,
        request: Request<v1beta1::PreStartContainerRequest>,
    ) -> Result<Response<v1beta1::PreStartContainerResponse>, Status> {
        let resource = &self.resource.name;
        trace!(%resource, "DevicePlugin.pre_start_container");
        self.peers.note_call(connection(&request)?);
        Ok(Response::new(v1beta1::PreStartContainerResponse {}))
    }
}

impl Service {
    fn allocate_container(&self, devices: &Devices, ids: &[String]) -> Result<Allocation, Status> {
        let resource = &self.resource.name;
        trace!(%resource, device_id = %foreign(&ids.join(",")), "DevicePlugin.allocate");
        allocate(devices, &self.resource.outputs, ids).map_err(|error| {
            let error = refusal(&error);
            warn!(%resource, error = %error.message(), "refused to allocate");
            error
        })
    }
}

/// What the kubelet is told, fit to be repeated in its log and the pod's events.
fn refusal(error: &AllocateError) -> Status {
    match error {
        AllocateError::Unknown(id) => Status::not_found(format!(
            "unknown device {}: does another plugin serve this resource?",
            foreign(id)
        )),
        AllocateError::Unhealthy(id) => {
            Status::failed_precondition(format!("device {} is Unhealthy", foreign(id)))
        }
        AllocateError::Going(id) => {
            Status::failed_precondition(format!("device {} is being removed", foreign(id)))
        }
    }
}

fn connection<T>(request: &Request<T>) -> Result<ConnectionId, Status> {
    let id = request.extensions().get::<ConnectionId>().copied();
    id.ok_or_else(|| Status::internal("a call outside of any connection"))
}

/// A stream that its peer has open, for as long as it lives.
struct OpenStream {
    peers: Peers,
    connection: ConnectionId,
}

impl OpenStream {
    fn new(peers: Peers, connection: ConnectionId) -> Self {
        peers.note(connection, |peer| {
            peer.streamed = true;
            peer.streams += 1;
        });
        Self { peers, connection }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.peers.note(self.connection, |peer| peer.streams -= 1);
    }
}
