//! The registration with the kubelet: settle if necessary, call Register, and wait until ListAndWatch is open.

use std::convert::Infallible;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{sleep, timeout};
use tracing::{debug, trace};

use crate::net::connections::{ConnectionId, Table};
use crate::node::checkpoint_file::CheckpointError;
use crate::node::registration::KubeletConnection;
use crate::offer::resource::Resource;
use crate::plugin::record::Step;

use super::run::{Connected, PluginInstance};
use super::run_end::NotRegistered;
use super::server::Server;

/// How long to settle. The kubelet disconnects a plugin up to 20 ms after it closed the connection, by resource name,
/// so it would disconnect a plugin that registered in between.
const SETTLE: Duration = Duration::from_millis(500);

const STREAM_OPENS_WITHIN: Duration = Duration::from_secs(5);

/// Whether to wait for [`SETTLE`] before the registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settle {
    /// The kubelet is not disconnecting a previous plugin.
    No,
    /// Settle if the kubelet's checkpoint lists the resource: another process may just have stopped serving it.
    IfListed,
    /// The kubelet may still be disconnecting a previous plugin.
    Yes,
}

impl PluginInstance {
    /// Registers on the connection that was opened before the socket was bound, and waits until the kubelet has opened
    /// ListAndWatch. Returns the connection of that stream.
    pub(super) async fn register(
        &self,
        resource: &Resource,
        connected: Connected,
        server: &Server,
        settle: Settle,
    ) -> Result<ConnectionId, NotRegistered> {
        let Connected {
            kubelet,
            mut permit,
        } = connected;
        if self.should_settle(settle, resource).await {
            drop(permit.take());
            self.entered(Step::Settling);
            debug!(resource = %resource.name, "waiting 0.5 s because the kubelet may still be disconnecting a previous plugin");
            sleep(SETTLE).await;
            permit = self.permit().await;
        }
        self.entered(Step::Registering);
        // A slow registration must not delay those of other resources.
        let permit_released = async {
            sleep(self.permit_timeout).await;
            drop(permit);
            std::future::pending::<Infallible>().await
        };
        tokio::select! {
            registered = self.call_register(resource, kubelet, server) => registered,
            never = permit_released => match never {},
        }
    }

    async fn call_register(
        &self,
        resource: &Resource,
        kubelet: KubeletConnection,
        server: &Server,
    ) -> Result<ConnectionId, NotRegistered> {
        self.add_held_devices(resource).await;
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

    async fn should_settle(&self, settle: Settle, resource: &Resource) -> bool {
        match settle {
            Settle::No => false,
            Settle::Yes => true,
            Settle::IfListed => match self.holders.checkpoint.read_recent().await {
                Ok(written) => written.checkpoint.lists(resource.name.as_str()),
                Err(error) => error != CheckpointError::Missing,
            },
        }
    }

    /// Adds the devices that pods hold to the first list, even if they are no longer configured: the kubelet crashes if
    /// a pod holds a device that is not in the list.
    async fn add_held_devices(&self, resource: &Resource) {
        let held = self.holders.held(&resource.name).await;
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
