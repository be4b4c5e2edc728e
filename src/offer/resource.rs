//! The configuration of one extended resource.

use std::sync::Arc;
use std::time::Duration;

use crate::api::{VERSION, v1beta1};
use crate::model::allocation::Outputs;
use crate::model::device::{CountedDevices, Devices};
use crate::model::preference::Policy;
use crate::model::resource_name::ResourceName;
use crate::model::socket_name::SocketName;

/// The default of [`Resource::removal_grace`].
pub(crate) const REMOVAL_GRACE_DEFAULT: Duration = Duration::from_secs(30);

/// One extended resource as configured. Each resource is served by one plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    pub name: ResourceName,
    /// The file name of the plugin's socket: `RegisterRequest.endpoint`.
    pub socket: SocketName,
    /// The configured devices, without overrides.
    pub devices: Arc<Devices>,
    /// How to make any number of devices. `None` if the configuration lists each device.
    pub counted: Option<CountedDevices>,
    /// The policy of GetPreferredAllocation.
    pub preference: Policy,
    /// The env, annotations, mounts, device files and CDI devices in the response to Allocate.
    pub outputs: Outputs,
    /// Whether the kubelet calls PreStartContainer.
    pub pre_start: bool,
    /// The minimum time that a device pending removal is advertised as Unhealthy before it is removed.
    pub removal_grace: Duration,
}

impl Resource {
    /// The response to GetDevicePluginOptions. The kubelet uses these options and ignores those of the RegisterRequest.
    pub fn options(&self) -> v1beta1::DevicePluginOptions {
        v1beta1::DevicePluginOptions {
            pre_start_required: self.pre_start,
            get_preferred_allocation_available: self.preference != Policy::None,
        }
    }

    pub fn registration(&self) -> v1beta1::RegisterRequest {
        v1beta1::RegisterRequest {
            version: VERSION.to_owned(),
            endpoint: self.socket.to_string(),
            resource_name: self.name.to_string(),
            options: Some(self.options()),
        }
    }

    /// Whether both resources have the same registration. If not, a change from one to the other needs a new registration,
    /// because the kubelet asks for the options only then.
    pub fn registers_like(&self, other: &Self) -> bool {
        self.registration() == other.registration()
    }
}
