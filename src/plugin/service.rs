//! The RPCs of `v1beta1.DevicePlugin`. Each is answered from the offer that is current at that time.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tracing::{info, trace, warn};

use crate::api::v1beta1::device_plugin_server::DevicePlugin;
use crate::api::{self, v1beta1};
use crate::fault::InjectionPoint;
use crate::model::allocation::{AllocateError, Allocation, allocate};
use crate::model::device::Devices;
use crate::model::preference::prefer;
use crate::net::connections::{ConnectionId, Peers, Table};
use crate::offer::Offer;
use crate::offer::removal::CallId;
use crate::offer::resource::Resource;
use crate::util::sanitize::sanitize;

use super::handle::PluginHandle;

/// The DevicePlugin service of one resource.
pub(crate) struct Service {
    /// The resource as registered. The kubelet gets the options only at registration, so they must not change later.
    pub registered: Arc<Resource>,
    pub offer: watch::Receiver<Arc<Offer>>,
    pub handle: PluginHandle,
    pub peers: Peers,
    pub(super) healthy_since: HealthySince,
    /// When canceled, streams end with OK and injected delays end. Other RPCs are still answered.
    pub(crate) stopping: CancellationToken,
}

/// Since when every list that was sent had a healthy device; `None` if the last one had none. Clones share the time.
#[derive(Clone, Debug, Default)]
pub(super) struct HealthySince(Arc<Mutex<Option<tokio::time::Instant>>>);

impl HealthySince {
    pub fn get(&self) -> Option<tokio::time::Instant> {
        *self.0.lock()
    }

    fn list_sent(&self, devices: &Devices) {
        let mut since = self.0.lock();
        *since = devices
            .has_allocatable()
            .then(|| since.unwrap_or_else(tokio::time::Instant::now));
    }
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
        let was_stopping = self.stopping.is_cancelled();
        self.handle
            .injector()
            .before_call(InjectionPoint::Options, &self.stopping)
            .await?;
        // The stop ended an injected delay. After an OK the kubelet would open a stream that ends at once.
        if self.stopping.is_cancelled() && !was_stopping {
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
        let open = StreamGuard::new(self.peers.clone(), connection(&request)?);
        let (handle, healthy_since) = (self.handle.clone(), self.healthy_since.clone());
        let mut last_sent: Option<(Arc<Devices>, u64)> = None;
        let lists = WatchStream::new(self.offer.clone()).filter_map(move |offer| {
            // Moves the guard into the closure, so that it is dropped with the stream.
            let _open = &open;
            // The kubelet would show these devices, but still call the other plugin for them.
            if handle.is_taken_over() {
                return std::future::ready(None);
            }
            let devices = offer.devices();
            let is_new = last_sent.as_ref().is_none_or(|(last_sent, repeats)| {
                *repeats != offer.repeats() || !last_sent.is_advertised_alike(devices)
            });
            // Record the list even if it is unchanged, because a device may have been Unhealthy before its removal
            // began.
            handle.removal().list_sent(devices, Instant::now());
            healthy_since.list_sent(devices);
            let list = is_new.then(|| {
                let count = devices.len();
                trace!(%resource, count, "DevicePlugin.list_and_watch.send");
                Ok(v1beta1::ListAndWatchResponse::from(&**devices))
            });
            last_sent = Some((Arc::clone(devices), offer.repeats()));
            std::future::ready(list)
        });
        let stopping = self.stopping.clone().cancelled_owned();
        Ok(Response::new(Box::pin(lists.take_until(stopping))))
    }

    async fn get_preferred_allocation(
        &self,
        request: Request<v1beta1::PreferredAllocationRequest>,
    ) -> Result<Response<v1beta1::PreferredAllocationResponse>, Status> {
        let device_ids = api::preferred_allocation_request_ids(request.get_ref());
        let _in_flight = InFlightCall::new(&self.handle, device_ids);
        let resource = &self.registered.name;
        trace!(%resource, "DevicePlugin.get_preferred_allocation");
        self.peers.note_call(connection(&request)?);
        self.handle
            .injector()
            .before_call(InjectionPoint::Preferred, &self.stopping)
            .await?;
        let offer = self.current_offer();
        let resource = offer.resource();
        let (devices, policy) = (offer.devices(), resource.preference);
        let answers = api::preference_requests(request.into_inner())
            .map(|q| prefer(devices, policy, &q.available, &q.must_include, q.size));
        Ok(Response::new(api::preferred_allocation_response(answers)))
    }

    async fn allocate(
        &self,
        request: Request<v1beta1::AllocateRequest>,
    ) -> Result<Response<v1beta1::AllocateResponse>, Status> {
        let device_ids = api::allocate_request_ids(request.get_ref());
        let _in_flight = InFlightCall::new(&self.handle, device_ids);
        let began = Instant::now();
        let connection = connection(&request)?;
        self.peers.note_call(connection);
        self.correct_kubelet(connection, api::allocate_request_ids(request.get_ref()));
        let injected = self
            .handle
            .injector()
            .before_call(InjectionPoint::Allocate, &self.stopping)
            .await;
        // There is no await between here and the answer, so a concurrent removal affects only the next call.
        let offer = self.current_offer();
        let devices = api::allocate_request_ids(request.get_ref()).count();
        let answers: Result<Vec<Allocation>, Status> = injected.and_then(|()| {
            api::container_device_ids(request.into_inner())
                .map(|ids| allocate_container(&offer, &ids))
                .collect()
        });
        self.count_allocate(&answers, devices, began.elapsed());
        Ok(Response::new(api::allocate_response(answers?)))
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
            .before_call(InjectionPoint::PreStart, &self.stopping)
            .await?;
        Ok(Response::new(v1beta1::PreStartContainerResponse {}))
    }
}

impl Service {
    fn current_offer(&self) -> Arc<Offer> {
        Arc::clone(&self.offer.borrow())
    }

    /// Sends the device list again if the kubelet calls this plugin for a device of another one, or although another one
    /// seemed to have taken the resource over. The kubelet calls the plugin that registered last, but has the list that it
    /// received last, so the two can be of different plugins.
    fn correct_kubelet<'a>(
        &self,
        connection: ConnectionId,
        mut ids: impl Iterator<Item = &'a str>,
    ) {
        let offer = self.current_offer();
        let is_unknown = |id: &str| offer.devices().get(id).is_none();
        if !self.handle.is_taken_over() && !ids.any(is_unknown) {
            return;
        }
        let is_kubelet = |table: &Table| table.get(connection).is_some_and(|peer| peer.streams > 0);
        if is_kubelet(&self.peers.subscribe().borrow()) {
            info!(resource = %offer.resource().name, "the kubelet calls this plugin, but has the devices of another one; sending the list again");
            self.handle.not_taken_over();
        }
    }

    fn count_allocate(
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
            .update_record_silently(|record| record.allocated(code, devices, took));
    }
}

fn allocate_container(offer: &Offer, ids: &[String]) -> Result<Allocation, Status> {
    let resource = offer.resource();
    trace!(resource = %resource.name, device_id = %sanitize(&ids.join(",")), "DevicePlugin.allocate");
    allocate(offer.devices(), &resource.outputs, ids).map_err(|error| {
        let error = allocate_status(&error);
        warn!(resource = %resource.name, error = %error.message(), "refused to allocate devices");
        error
    })
}

/// Marks a call as in flight: the kubelet may pick a device that the call names. Dropped when the call is answered or
/// canceled.
struct InFlightCall<'a> {
    handle: &'a PluginHandle,
    call: CallId,
}

impl<'a> InFlightCall<'a> {
    fn new<'b>(handle: &'a PluginHandle, ids: impl Iterator<Item = &'b str>) -> Self {
        let call = handle.removal().call_began(ids);
        Self { handle, call }
    }
}

impl Drop for InFlightCall<'_> {
    fn drop(&mut self) {
        self.handle.removal().call_ended(self.call, Instant::now());
    }
}

/// Returns the gRPC status of the error. IDs are sanitized, because the kubelet copies the message to its log and to
/// the pod's events.
fn allocate_status(error: &AllocateError) -> Status {
    match error {
        AllocateError::Unknown(id) => Status::not_found(format!(
            "unknown device {}; another plugin may serve this resource",
            sanitize(id)
        )),
        AllocateError::Unhealthy(id) => {
            Status::failed_precondition(format!("device {} is Unhealthy", sanitize(id)))
        }
        AllocateError::TooLarge { .. } => Status::resource_exhausted(error.to_string()),
        AllocateError::Removing(id) => {
            Status::failed_precondition(format!("device {} is pending removal", sanitize(id)))
        }
    }
}

fn connection<T>(request: &Request<T>) -> Result<ConnectionId, Status> {
    let id = request.extensions().get::<ConnectionId>().copied();
    id.ok_or_else(|| Status::internal("internal error: the call has no connection"))
}

/// Counts an open ListAndWatch stream of a connection until it is dropped.
struct StreamGuard {
    peers: Peers,
    connection: ConnectionId,
}

impl StreamGuard {
    fn new(peers: Peers, connection: ConnectionId) -> Self {
        peers.note(connection, |peer| {
            peer.streamed = true;
            peer.streams += 1;
        });
        Self { peers, connection }
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.peers.note(self.connection, |peer| peer.streams -= 1);
    }
}
