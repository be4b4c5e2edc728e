//! `Registration.Register` as the kubelet serves it. Follows `plugin/v1beta1/server.go`.

use std::collections::BTreeMap;
use std::sync::Arc;

use tonic::{Request, Response, Status};
use tracing::debug;

use simple_device_plugin::api::VERSION;
use simple_device_plugin::api::v1beta1::registration_server::Registration;
use simple_device_plugin::api::v1beta1::{Empty, RegisterRequest};
use simple_device_plugin::foreign::foreign;
use simple_device_plugin::model::resource_name::ResourceName;

use super::event::EventKind;
use super::plugin_client::PluginClient;
use super::settings::{Behavior, RegistrationMode};
use super::state::KubeletState;

/// No file has a longer name. A real kubelet tries to dial it all the same.
const ENDPOINT_MAX: usize = 255;

/// Judges registrations and hands them to the device manager.
pub struct RegistrationService(pub Arc<KubeletState>);

#[tonic::async_trait]
impl Registration for RegistrationService {
    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<Empty>, Status> {
        let request = request.into_inner();
        let resource = foreign(&request.resource_name);
        let endpoint = foreign(&request.endpoint);
        debug!(resource, endpoint, "Register");
        if let Err(status) = self.check(&request).await {
            let error = foreign(status.message());
            self.0
                .emit(&resource, EventKind::Refused { endpoint, error });
            return Err(status);
        }
        self.connect(request).await.map(Response::new)
    }
}

impl RegistrationService {
    async fn check(&self, request: &RegisterRequest) -> Result<(), Status> {
        validate(request)?;
        self.0.registrations.send_modify(|counts| {
            *counts.entry(request.resource_name.clone()).or_default() += 1;
        });
        self.wait_for_registration_mode(&request.resource_name)
            .await
    }

    async fn connect(&self, request: RegisterRequest) -> Result<Empty, Status> {
        let (dir, resource) = (&self.0.settings.dir, request.resource_name);
        let client = Arc::new(PluginClient::new(resource, dir, request.endpoint));
        if self.is_ignored(&client) {
            let endpoint = client.endpoint();
            self.0
                .emit(&client.resource, EventKind::Ignored { endpoint });
            return Ok(Empty {});
        }
        // A task of its own: like a Go handler it goes on when its caller has gone.
        let connecting = Arc::clone(&self.0).connect_plugin(client);
        let stop = self.0.stop.clone();
        let connecting = self
            .0
            .tasks
            .spawn(stop.run_until_cancelled_owned(connecting));
        let stopped = |_| Status::unavailable("the kubelet stops");
        let connected = connecting.await.map_err(stopped)?;
        connected.unwrap_or_else(|| Err(Status::unavailable("the kubelet stops")))?;
        Ok(Empty {})
    }

    /// Waits while this resource's registrations hang.
    async fn wait_for_registration_mode(&self, resource: &str) -> Result<(), Status> {
        let answer = |answers: &BTreeMap<String, RegistrationMode>| {
            answers.get(resource).copied().unwrap_or_default()
        };
        let mut answers = self.0.registration_modes.subscribe();
        let no_longer = answers.wait_for(|answers| answer(answers) != RegistrationMode::Hang);
        let answers = no_longer
            .await
            .map_err(|_| Status::unavailable("the kubelet stops"))?;
        match answer(&answers) {
            RegistrationMode::Refuse => Err(Status::unknown("refused on purpose")),
            RegistrationMode::Normal | RegistrationMode::Hang => Ok(()),
        }
    }

    /// Whether a newer kubelet ignores this registration: it has the same plugin already.
    fn is_ignored(&self, client: &PluginClient) -> bool {
        let clients = self.0.clients();
        let held = clients.get(&client.resource);
        self.0.settings.behavior == Behavior::Newer
            && held.is_some_and(|held| held.socket == client.socket)
    }
}

fn validate(request: &RegisterRequest) -> Result<(), Status> {
    if request.version != VERSION {
        let version = foreign(&request.version);
        return Err(Status::unknown(format!(
            "version {version} is not {VERSION}"
        )));
    }
    if request.endpoint.len() > ENDPOINT_MAX {
        return Err(Status::unknown("the endpoint is no file name: too long"));
    }
    match ResourceName::parse(&request.resource_name) {
        Ok(_) => Ok(()),
        Err(expected) => {
            let name = foreign(&request.resource_name);
            Err(Status::unknown(format!(
                "invalid resource name {name}: expected {expected}"
            )))
        }
    }
}
