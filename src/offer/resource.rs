//! One extended resource as configured.

use std::sync::Arc;
use std::time::Duration;

use crate::api::{VERSION, v1beta1};
use crate::model::allocation::Outputs;
use crate::model::device::{Counted, Devices};
use crate::model::preference::Policy;
use crate::model::resource_name::ResourceName;
use crate::model::socket_name::SocketName;

/// How long a device pending removal stays Unhealthy at least.
pub(crate) const REMOVAL_GRACE_DEFAULT: Duration = Duration::from_secs(30);

/// What one plugin offers to the kubelet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// The name it registers.
    pub name: ResourceName,
    /// The socket that it serves: the endpoint of its registration.
    pub socket: SocketName,
    /// The devices it starts with.
    pub devices: Arc<Devices>,
    /// How they come about, unless they are a list.
    pub counted: Option<Counted>,
    /// How it answers GetPreferredAllocation.
    pub preference: Policy,
    /// What a container gets with its devices.
    pub outputs: Outputs,
    /// Whether the kubelet calls PreStartContainer.
    pub pre_start: bool,
    /// How long a device pending removal stays Unhealthy at least before it is dropped.
    pub removal_grace: Duration,
}

impl Resource {
    /// The answer to GetDevicePluginOptions. The kubelet ignores the options in the registration and uses these.
    pub fn options(&self) -> v1beta1::DevicePluginOptions {
        v1beta1::DevicePluginOptions {
            pre_start_required: self.pre_start,
            get_preferred_allocation_available: self.preference != Policy::None,
        }
    }

    /// The request with which it registers.
    pub fn registration(&self) -> v1beta1::RegisterRequest {
        v1beta1::RegisterRequest {
            version: VERSION.to_owned(),
            endpoint: self.socket.to_string(),
            resource_name: self.name.to_string(),
            options: Some(self.options()),
        }
    }

    /// Whether a kubelet that registered one of them knows all that it needs of the other. It asks for the options
    /// only at a registration.
    pub fn registers_like(&self, other: &Self) -> bool {
        self.registration() == other.registration()
    }
}
