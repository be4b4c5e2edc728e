//! The five RPCs of `v1beta1.DevicePlugin`, each a view of the resource and its devices.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tracing::{trace, warn};

use crate::api::v1beta1::device_plugin_server::DevicePlugin;
use crate::api::{self, v1beta1};
use crate::fault::InjectionPoint;
use crate::model::allocation::{AllocateError, Allocation, allocate};
use crate::model::device::Devices;
use crate::model::preference::prefer;
use crate::net::connections::{ConnectionId, Peers};
use crate::offer::Offer;
use crate::offer::removal::CallId;
use crate::offer::resource::Resource;
use crate::util::sanitize::sanitize;

use super::handle::PluginHandle;

/// One resource's answers to the kubelet.
pub(crate) struct Service {
    /// As it is registered: its options are not asked for again.
    pub registered: Arc<Resource>,
    pub offer: watch::Receiver<Arc<Offer>>,
    pub handle: PluginHandle,
    pub peers: Peers,
    /// Ends the streams, with OK; the other RPCs go on.
    pub(crate) ending: CancellationToken,
}

type ListStream = Pin<Box<dyn Stream<Item = Result<v1beta1::ListAndWatchResponse, Status>> + Send>>;

#[tonic::async_trait]
impl DevicePlugin for Service {
    type ListAndWatchStream = ListStream;

    async fn get_device_plugin_options(
        &self,
        request: Request<v1beta1::Empty>,
    ) -> Result<Response<v1beta1::DevicePluginOptions>, Status> {
        let resource = &self.registered.name;
        trace!(%resource, "DevicePlugin.get_device_plugin_options");
        let connection = connection(&request)?;
        self.peers
            .note(connection, |peer| peer.asked_options = true);
        let was_ending = self.ending.is_cancelled();
        self.handle
            .injector()
            .before_call(InjectionPoint::Options, &self.ending)
            .await?;
        // Cut short: with an answer the kubelet would open a stream that ends at once.
        if self.ending.is_cancelled() && !was_ending {
            return Err(Status::unavailable("the plugin is stopping"));
        }
        Ok(Response::new(self.registered.options()))
    }

    async fn list_and_watch(
        &self,
        request: Request<v1beta1::Empty>,
    ) -> Result<Response<ListStream>, Status> {
        let resource = self.registered.name.clone();
        trace!(%resource, "DevicePlugin.list_and_watch");
        let open = OpenStream::new(self.peers.clone(), connection(&request)?);
        let handle = self.handle.clone();
        let mut sent: Option<(Arc<Devices>, u64)> = None;
        let lists = WatchStream::new(self.offer.clone()).filter_map(move |offer| {
            let _until_dropped = &open;
            let devices = offer.devices();
            let is_new = sent.as_ref().is_none_or(|(sent, repeats)| {
                *repeats != offer.repeats() || !sent.is_reported_alike(devices)
            });
            // Also where no new list is needed: a device may have been Unhealthy before its removal began.
            handle.removal().list_sent(devices, Instant::now());
            let list = is_new.then(|| {
                let count = devices.len();
                trace!(%resource, count, "DevicePlugin.list_and_watch.send");
                Ok(v1beta1::ListAndWatchResponse::from(&**devices))
            });
            sent = Some((Arc::clone(devices), offer.repeats()));
            std::future::ready(list)
        });
        let ending = self.ending.clone().cancelled_owned();
        Ok(Response::new(Box::pin(lists.take_until(ending))))
    }

    async fn get_preferred_allocation(
        &self,
        request: Request<v1beta1::PreferredAllocationRequest>,
    ) -> Result<Response<v1beta1::PreferredAllocationResponse>, Status> {
        let asked = api::named_in_question(request.get_ref());
        let _in_flight = InFlight::new(&self.handle, asked);
        let resource = &self.registered.name;
        trace!(%resource, "DevicePlugin.get_preferred_allocation");
        self.peers.note_call(connection(&request)?);
        self.handle
            .injector()
            .before_call(InjectionPoint::Preferred, &self.ending)
            .await?;
        let offer = self.now();
        let resource = offer.resource();
        let (devices, policy) = (offer.devices(), resource.preference);
        let answers = api::preferences(request.into_inner())
            .map(|q| prefer(devices, policy, &q.available, &q.must_include, q.size));
        Ok(Response::new(api::preferred(answers)))
    }

    async fn allocate(
        &self,
        request: Request<v1beta1::AllocateRequest>,
    ) -> Result<Response<v1beta1::AllocateResponse>, Status> {
        let asked = api::named_in_allocation(request.get_ref());
        let _in_flight = InFlight::new(&self.handle, asked);
        let began = Instant::now();
        self.peers.note_call(connection(&request)?);
        let refused = self
            .handle
            .injector()
            .before_call(InjectionPoint::Allocate, &self.ending)
            .await;
        // Read and evaluated without a pause: a removal that begins later affects the next call.
        let offer = self.now();
        let devices = api::named_in_allocation(request.get_ref()).count();
        let answers: Result<Vec<Allocation>, Status> = refused.and_then(|()| {
            api::allocations(request.into_inner())
                .map(|ids| allocate_container(&offer, &ids))
                .collect()
        });
        self.note_allocate(&answers, devices, began.elapsed());
        Ok(Response::new(api::allocated(answers?)))
    }

    async fn pre_start_container(
        &self,
        request: Request<v1beta1::PreStartContainerRequest>,
    ) -> Result<Response<v1beta1::PreStartContainerResponse>, Status> {
        let resource = &self.registered.name;
        trace!(%resource, "DevicePlugin.pre_start_container");
        self.peers.note_call(connection(&request)?);
        self.handle
            .injector()
            .before_call(InjectionPoint::PreStart, &self.ending)
            .await?;
        Ok(Response::new(v1beta1::PreStartContainerResponse {}))
    }
}

impl Service {
    fn now(&self) -> Arc<Offer> {
        Arc::clone(&self.offer.borrow())
    }

    /// Counts a call of Allocate, without waking those who watch the record: there can be many.
    fn note_allocate(
        &self,
        answer: &Result<Vec<Allocation>, Status>,
        devices: usize,
        took: Duration,
    ) {
        let (code, devices) = match answer {
            Ok(_) => (0, devices),
            Err(status) => (i32::from(status.code()).unsigned_abs() as usize, 0),
        };
        self.handle
            .count(|record| record.allocated(code, devices, took));
    }
}

fn allocate_container(offer: &Offer, ids: &[String]) -> Result<Allocation, Status> {
    let resource = offer.resource();
    trace!(resource = %resource.name, device_id = %sanitize(&ids.join(",")), "DevicePlugin.allocate");
    allocate(offer.devices(), &resource.outputs, ids).map_err(|error| {
        let error = refusal(&error);
        warn!(resource = %resource.name, error = %error.message(), "refused to allocate");
        error
    })
}

/// A call that may pick the devices that it names, until it is answered or given up.
struct InFlight<'a> {
    handle: &'a PluginHandle,
    call: CallId,
}

impl<'a> InFlight<'a> {
    fn new<'b>(handle: &'a PluginHandle, ids: impl Iterator<Item = &'b str>) -> Self {
        let call = handle.removal().call_began(ids);
        Self { handle, call }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.handle.removal().call_ended(self.call, Instant::now());
    }
}

/// The error text, safe for the kubelet's log and the pod's events.
fn refusal(error: &AllocateError) -> Status {
    match error {
        AllocateError::Unknown(id) => Status::not_found(format!(
            "unknown device {}: does another plugin serve this resource?",
            sanitize(id)
        )),
        AllocateError::Unhealthy(id) => {
            Status::failed_precondition(format!("device {} is Unhealthy", sanitize(id)))
        }
        AllocateError::TooLarge { .. } => Status::resource_exhausted(error.to_string()),
        AllocateError::Removing(id) => {
            Status::failed_precondition(format!("device {} is being removed", sanitize(id)))
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
