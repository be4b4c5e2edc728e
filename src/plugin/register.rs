//! The registration with a kubelet: from the connection to the open stream.

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

/// The kubelet disconnects a plugin up to 20 ms after it closed the connection, and the disconnect hits any plugin
/// that registered the resource in between.
const SETTLE: Duration = Duration::from_millis(500);

const STREAM_OPENS_WITHIN: Duration = Duration::from_secs(5);

/// Whether to wait before the registration, since the kubelet may still be disconnecting a predecessor. It handles the
/// end of a connection late, and by the resource's name: that would hit the new registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settle {
    /// There is no predecessor.
    No,
    /// Only if its checkpoint lists the resource: another process may have served it a moment ago.
    IfListed,
    /// There may be one.
    Yes,
}

impl PluginInstance {
    /// Registers on the connection that was open before the socket was bound, and waits until the
    /// kubelet has opened ListAndWatch. Returns the connection of that stream.
    pub(super) async fn register(
        &self,
        resource: &Resource,
        connected: Connected,
        server: &Server,
        settle: Settle,
    ) -> Result<ConnectionId, NotRegistered> {
        let Connected { kubelet, mut turn } = connected;
        if self.settles(settle, resource).await {
            drop(turn.take());
            self.entered(Step::Settling);
            debug!(resource = %resource.name, "settling: the kubelet may still be disconnecting a predecessor");
            sleep(SETTLE).await;
            turn = self.turn().await;
        }
        self.entered(Step::Registering);
        // A slow registration gives its turn away.
        let turn_over = async {
            sleep(self.turn_length).await;
            drop(turn);
            std::future::pending::<Infallible>().await
        };
        tokio::select! {
            registered = self.call_register(resource, kubelet, server) => registered,
            never = turn_over => match never {},
        }
    }

    async fn call_register(
        &self,
        resource: &Resource,
        kubelet: KubeletConnection,
        server: &Server,
    ) -> Result<ConnectionId, NotRegistered> {
        self.hold_what_pods_hold(resource).await;
        let checkpoint_before = self.holders.checkpoint.version();
        self.handle
            .note(|record, _| record.checkpoint_before = checkpoint_before);
        trace!(resource = %resource.name, endpoint = %resource.socket, "Registration.register");
        let mut peers = server.peers();
        let first = peers.borrow().next();
        let answer = kubelet.register(resource.registration()).await;
        if answer.is_err() && peers.borrow().refused_outside() {
            return Err(NotRegistered::UserNamespace);
        }
        answer?;
        let dialled = first..peers.borrow().next();
        called_back(&mut peers, dialled).await
    }

    /// A turn among the few that register; never closed, so there is always one.
    pub(super) async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.turns).acquire_owned().await.ok()
    }

    async fn settles(&self, settle: Settle, resource: &Resource) -> bool {
        match settle {
            Settle::No => false,
            Settle::Yes => true,
            Settle::IfListed => match self.holders.checkpoint.read_recent().await {
                Ok(written) => written.checkpoint.lists(resource.name.as_str()),
                Err(error) => error != CheckpointError::Missing,
            },
        }
    }

    /// Whoever had the resource before may have given devices to pods that the configuration lacks. The first list
    /// must have them: the kubelet crashes over one that a pod holds and the list lacks.
    async fn hold_what_pods_hold(&self, resource: &Resource) {
        let held = self.holders.held(&resource.name).await;
        self.handle.hold(&held);
    }
}

/// OK alone does not mean registered: the kubelet must have dialled and asked for the options
/// meanwhile, so on one of the connections made until then, and it must open ListAndWatch on that same one.
async fn called_back(
    peers: &mut watch::Receiver<Table>,
    dialled: Range<ConnectionId>,
) -> Result<ConnectionId, NotRegistered> {
    let asked = |table: &Table| table.find(dialled.clone(), |peer| peer.asked_options);
    let streamed =
        |table: &Table| table.find(dialled.clone(), |peer| peer.asked_options && peer.streamed);
    if asked(&peers.borrow()).is_none() {
        return Err(NotRegistered::NotCalledBack);
    }
    let decided = peers.wait_for(|table| streamed(table).is_some() || asked(table).is_none());
    match timeout(STREAM_OPENS_WITHIN, decided).await {
        Ok(Ok(table)) => streamed(&table).ok_or(NotRegistered::NoStream),
        _ => Err(NotRegistered::NoStream),
    }
}
