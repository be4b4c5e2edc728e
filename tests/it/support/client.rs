//! gRPC clients for a plugin and for the kubelet.

use std::path::Path;

use simple_device_plugin::api::VERSION;
use simple_device_plugin::api::v1beta1;
use simple_device_plugin::api::v1beta1::device_plugin_client::DevicePluginClient;
use simple_device_plugin::api::v1beta1::registration_client::RegistrationClient;
use simple_device_plugin::model::socket_name::KUBELET_SOCKET;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// Connects to the unix socket at this path.
pub async fn dial(socket: &Path) -> Result<Channel, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display()));
    endpoint.expect("a path").connect().await
}

/// Connects to the plugin at this socket.
pub async fn plugin_client(socket: &Path) -> DevicePluginClient<Channel> {
    DevicePluginClient::new(dial(socket).await.expect("a plugin"))
}

/// Registers a resource with the kubelet in this directory, as a plugin does.
pub async fn register(dir: &Path, resource: &str, endpoint: &str) -> Result<(), Status> {
    let channel = dial(&dir.join(KUBELET_SOCKET)).await.expect("a kubelet");
    let request = v1beta1::RegisterRequest {
        version: VERSION.to_owned(),
        endpoint: endpoint.to_owned(),
        resource_name: resource.to_owned(),
        options: None,
    };
    RegistrationClient::new(channel)
        .register(request)
        .await
        .map(|_| ())
}
