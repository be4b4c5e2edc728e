//! The registration with the kubelet: settle if necessary, call Register, and wait until ListAndWatch is open.

use std::convert::Infallible;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, sleep, timeout};
use tracing::trace;

use crate::net::connections::{ConnectionId, Table};
use crate::node::registration::KubeletConnection;
use crate::offer::resource::Resource;
use crate::plugin::record::Step;

use super::run::{Connected, PluginInstance};
use super::run_end::{NotRegistered, RunEnd};
use super::server::Server;
use super::settle::Settle;

const STREAM_OPENS_WITHIN: Duration = Duration::from_secs(5);

impl PluginInstance {
    /// Registers on the connection that was opened before the socket was bound, and waits until the kubelet has opened
    /// ListAndWatch. Returns the connection of that stream.
    pub(super) async fn register(
        &self,
        resource: &Resource,
        connected: Connected,
        server: &Server,
        settle: Settle,
    ) -> Result<ConnectionId, RunEnd> {
        let Connected {
            kubelet,
            mut permit,
        } = connected;
        let settled_at = self.settle(resource, settle, &mut permit).await?;
        self.entered(Step::Registering);
        // A slow registration must not delay those of other resources.
        let permit_released = async {
            sleep(self.permit_timeout).await;
            drop(permit);
            std::future::pending::<Infallible>().await
        };
        tokio::select! {
            registered = self.call_register(resource, kubelet, server, settled_at) => {
                registered.map_err(RunEnd::NotRegistered)
            }
            never = permit_released => match never {},
        }
    }

    async fn call_register(
        &self,
        resource: &Resource,
        kubelet: KubeletConnection,
        server: &Server,
        settled_at: Option<Instant>,
    ) -> Result<ConnectionId, NotRegistered> {
        self.add_held_devices(resource, settled_at).await;
        let checkpoint_before = self.holders.checkpoint.version();
        self.handle
            .update_record(|record, _| record.checkpoint_before = checkpoint_before);
        trace!(resource = %resource.name, endpoint = %resource.socket, "Registration.register");
        let mut peers = server.peers();
        let first = peers.borrow().next();
        let answer = kubelet.register(resource.registration()).await;
        if answer.is_err() && peers.borrow().refused_outside() {
            return Err(NotRegistered::UserNamespace);
        }
        answer?;
        let connections = first..peers.borrow().next();
        confirm_registration(&mut peers, connections).await
    }

    /// Waits for a registration permit. Returns `None` only if the semaphore is closed, which never happens.
    pub(super) async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.registration_permits)
            .acquire_owned()
            .await
            .ok()
    }

    /// Adds the devices that pods hold to the first list, even if they are no longer configured: the kubelet crashes if
    /// a pod holds a device that is not in the list. The previous plugin may have allocated devices until the plugin had
    /// settled.
    async fn add_held_devices(&self, resource: &Resource, settled_at: Option<Instant>) {
        let held = self.holders.held(&resource.name, settled_at).await;
        self.handle.add_held_devices(&held);
    }
}

/// Waits until the kubelet has opened ListAndWatch. A Register that returned OK is not enough: the kubelet must also
/// have called GetDevicePluginOptions on one of these `connections`, and must open ListAndWatch on the same
/// connection.
async fn confirm_registration(
    peers: &mut watch::Receiver<Table>,
    connections: Range<ConnectionId>,
) -> Result<ConnectionId, NotRegistered> {
    let find_options_call =
        |table: &Table| table.find(connections.clone(), |peer| peer.asked_options);
    let find_stream = |table: &Table| {
        table.find(connections.clone(), |peer| {
            peer.asked_options && peer.streamed
        })
    };
    if find_options_call(&peers.borrow()).is_none() {
        return Err(NotRegistered::NotCalledBack);
    }
    let decided =
        peers.wait_for(|table| find_stream(table).is_some() || find_options_call(table).is_none());
    match timeout(STREAM_OPENS_WITHIN, decided).await {
        Ok(Ok(table)) => find_stream(&table).ok_or(NotRegistered::NoStream),
        _ => Err(NotRegistered::NoStream),
    }
}
