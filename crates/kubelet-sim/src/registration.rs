//! The registration server on `kubelet.sock`. It follows `pkg/kubelet/cm/devicemanager/plugin/v1beta1/server.go`.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use futures_util::StreamExt;
use rustix::net::{Shutdown, shutdown};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tracing::{debug, warn};

use simple_device_plugin::api::VERSION;
use simple_device_plugin::api::v1beta1::registration_server::{Registration, RegistrationServer};
use simple_device_plugin::api::v1beta1::{Empty, RegisterRequest};
use simple_device_plugin::model::resource_name::ResourceName;
use simple_device_plugin::model::socket_name::KUBELET_SOCKET;
use simple_device_plugin::net::connections::{Peers, incoming};
use simple_device_plugin::util::sanitize::sanitize;

use crate::authority::proxy_as_localhost;
use crate::event::EventKind;
use crate::plugin_client::PluginClient;
use crate::settings::{Behavior, RegistrationMode};
use crate::state::KubeletState;

/// The maximum number of connections to `kubelet.sock`; each plugin has one. A real kubelet is limited only by its file
/// descriptors.
const CONNECTIONS_MAX: usize = 1024;

/// In bytes: the longest file name on Linux. A real kubelet dials a longer endpoint and fails.
const ENDPOINT_MAX: usize = 255;

impl KubeletState {
    /// Serves Register on the listener until the kubelet stops.
    pub(crate) fn serve_registration(self: Arc<Self>, listener: UnixListener) {
        let (tasks, stop) = (self.tasks.clone(), self.stop.clone());
        serve(RegistrationService { state: self }, listener, &tasks, stop);
    }
}

/// Serves Register on the listener until `stop` is canceled, which also aborts every connection.
pub(crate) fn serve(
    service: impl Registration,
    listener: UnixListener,
    tasks: &TaskTracker,
    stop: CancellationToken,
) {
    let listener = Arc::new(listener);
    let listeners = watch::Sender::new(Arc::clone(&listener));
    let peers = Peers::new(KUBELET_SOCKET, stop.clone(), CONNECTIONS_MAX).allow_any_user();
    let proxies = tasks.clone();
    let incoming = incoming(listeners.subscribe(), peers).map(move |connection| {
        let mut connection = connection?;
        let (server_side, proxy_side) = UnixStream::pair()?;
        let client = connection.replace(server_side);
        proxies.spawn(proxy_as_localhost(client, proxy_side));
        io::Result::Ok(connection)
    });
    let service = RegistrationServer::new(service);
    tasks.spawn(async move {
        let server = Server::builder().add_service(service);
        let stopped = stop.cancelled_owned();
        if let Err(error) = server.serve_with_incoming_shutdown(incoming, stopped).await {
            warn!(%error, "the registration server failed");
        }
        // Dropping the sender would end the stream of connections.
        drop(listeners);
        // Closing is not enough: between fork and exec, a child process has a copy of the listener.
        if let Err(error) = shutdown(&*listener, Shutdown::Both) {
            warn!(%error, "cannot shut down kubelet.sock");
        }
    });
}

struct RegistrationService {
    state: Arc<KubeletState>,
}

#[tonic::async_trait]
impl Registration for RegistrationService {
    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<Empty>, Status> {
        let request = request.into_inner();
        let resource = sanitize(&request.resource_name);
        let endpoint = sanitize(&request.endpoint);
        debug!(resource, endpoint, "Register");
        if let Err(status) = self.check(&request).await {
            let error = sanitize(status.message());
            let failed = EventKind::RegistrationFailed { endpoint, error };
            self.state.emit(&resource, failed);
            return Err(status);
        }
        self.connect(request).await.map(Response::new)
    }
}

impl RegistrationService {
    /// Validates and counts the request, and waits while the resource's registrations hang.
    async fn check(&self, request: &RegisterRequest) -> Result<(), Status> {
        validate(request)?;
        self.state.registrations.send_modify(|counts| {
            *counts.entry(request.resource_name.clone()).or_default() += 1;
        });
        self.wait_for_registration_mode(&request.resource_name)
            .await
    }

    async fn connect(&self, request: RegisterRequest) -> Result<Empty, Status> {
        let dir = &self.state.settings.dir;
        let client = PluginClient::new(request.resource_name, dir, request.endpoint);
        if self.is_ignored(&client) {
            let endpoint = client.endpoint();
            let ignored = EventKind::Ignored { endpoint };
            self.state.emit(&client.resource, ignored);
            return Ok(Empty {});
        }
        // Runs in a separate task, because a Go handler continues after its caller disconnects.
        let connecting = Arc::clone(&self.state).connect_plugin(Arc::new(client));
        let stop = self.state.stop.clone();
        let connecting = stop.run_until_cancelled_owned(connecting);
        match self.state.tasks.spawn(connecting).await {
            Ok(Some(connected)) => connected.map(|()| Empty {}),
            Ok(None) | Err(_) => Err(stopping()),
        }
    }

    /// Waits while the resource's mode is [`RegistrationMode::Hang`], and returns an error if it is then
    /// [`RegistrationMode::Refuse`].
    async fn wait_for_registration_mode(&self, resource: &str) -> Result<(), Status> {
        let mode = |modes: &BTreeMap<String, RegistrationMode>| {
            modes.get(resource).copied().unwrap_or_default()
        };
        let mut modes = self.state.registration_modes.subscribe();
        let modes = modes.wait_for(|modes| mode(modes) != RegistrationMode::Hang);
        let modes = modes.await.map_err(|_| stopping())?;
        match mode(&modes) {
            RegistrationMode::Refuse => Err(Status::unknown("refused on purpose")),
            RegistrationMode::Normal | RegistrationMode::Hang => Ok(()),
        }
    }

    /// Returns whether the kubelet ignores the registration because it has a client of the same resource and socket.
    fn is_ignored(&self, client: &PluginClient) -> bool {
        let clients = self.state.clients();
        let held = clients.get(&client.resource);
        self.state.settings.behavior == Behavior::Newer
            && held.is_some_and(|held| held.socket == client.socket)
    }
}

fn stopping() -> Status {
    Status::unavailable("the kubelet is stopping")
}

/// # Errors
/// Returns the status Unknown if the version, the endpoint or the resource name is not valid.
pub(crate) fn validate(request: &RegisterRequest) -> Result<(), Status> {
    if request.version != VERSION {
        let version = sanitize(&request.version);
        return Err(Status::unknown(format!(
            "unsupported version {version}: expected {VERSION}"
        )));
    }
    if request.endpoint.len() > ENDPOINT_MAX {
        return Err(Status::unknown(
            "invalid endpoint: expected a file name of at most 255 bytes",
        ));
    }
    match ResourceName::parse(&request.resource_name) {
        Ok(_) => Ok(()),
        Err(expected) => {
            let name = sanitize(&request.resource_name);
            Err(Status::unknown(format!(
                "invalid resource name {name}: expected {expected}"
            )))
        }
    }
}
