//! One extended resource as configured.

use std::sync::Arc;
use std::time::Duration;

use crate::fault::{Fault, Target};
use crate::model::allocation::Outputs;
use crate::model::device::{Counted, Devices};
use crate::model::preference::Policy;
use crate::model::resource_name::ResourceName;
use crate::model::socket_name::SocketName;

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

    /// Why the kubelet never makes this call, where it does not.
    pub fn never_called(&self, target: Target) -> Option<&'static str> {
        match target {
            Target::Preferred if self.preference == Policy::None => {
                Some("preferredAllocation is none, so the kubelet does not ask for it")
            }
            Target::PreStart if !self.pre_start => {
                Some("preStart is false, so the kubelet does not call it")
            }
            _ => None,
        }
    }
}
