//! One extended resource as configured.

use std::sync::Arc;
use std::time::Duration;

use crate::allocation::Outputs;
use crate::device::{Counted, Devices};
use crate::fault::Fault;
use crate::preference::Policy;
use crate::resource_name::ResourceName;
use crate::socket_name::SocketName;

/// How long a device that goes stays Unhealthy at least.
pub const REMOVAL_GRACE_DEFAULT: Duration = Duration::from_secs(30);

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
    /// How long a device that goes stays Unhealthy at least before it is dropped.
    pub removal_grace: Duration,
    /// What goes wrong with it on purpose.
    pub faults: Vec<Fault>,
}

impl Resource {
    /// Whether the kubelet was told the same of both at their registration: the socket, and the options,
    /// which it asks for only then.
    pub fn registers_like(&self, other: &Self) -> bool {
        let told = |resource: &Self| (resource.pre_start, resource.preference != Policy::None);
        self.socket == other.socket && told(self) == told(other)
    }
}
