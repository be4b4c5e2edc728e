//! The events by which the kubelet reports what plugins do.

use std::fmt;

use crate::admission_error::AdmissionError;

/// An action of a resource's plugin that the kubelet observed, or an effect on a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The resource name in the plugin's request, which may be invalid. It is cut to 256 characters, and control
    /// characters are escaped.
    pub resource: String,
    pub kind: EventKind,
}

/// An action and its details. `endpoint` is the file name of the plugin's socket. Text from the plugin is cut to 256
/// characters, and control characters are escaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// The plugin registered and answered GetDevicePluginOptions.
    Registered {
        endpoint: String,
        /// Whether the kubelet calls PreStartContainer.
        pre_start: bool,
        /// Whether the kubelet calls GetPreferredAllocation.
        preferred: bool,
    },
    /// The connected plugin registered again with the same socket, and the kubelet ignored the registration. See
    /// [`Behavior::Newer`](crate::Behavior::Newer).
    Ignored { endpoint: String },
    RegistrationFailed {
        endpoint: String,
        /// The error that Register returned.
        error: String,
    },
    /// The plugin sent a list on its ListAndWatch stream.
    Listed {
        healthy: usize,
        unhealthy: usize,
        /// The first health that is neither `Healthy` nor `Unhealthy`. The kubelet treats such a device as unhealthy.
        unknown_health: Option<String>,
        /// The differences from the previous list; empty if that list was empty or this is the first one.
        changes: Vec<DeviceChange>,
    },
    /// The kubelet admitted the running pod again after its start and killed it.
    PodKilled { pod: String, reason: AdmissionError },
    /// The plugin's stream ended, and the kubelet marked all devices as unhealthy.
    Disconnected {
        /// The error of the stream; `None` if the plugin closed it without one.
        error: Option<String>,
    },
}

/// A device that differs between two lists of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceChange {
    pub id: String,
    /// The state in the newer list.
    pub state: DeviceState,
}

/// The state of a device in a list, displayed as `Healthy`, `Unhealthy` or `removed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceState {
    /// The device is healthy; before, it was unhealthy or not in the list.
    Healthy,
    /// The device is unhealthy; before, it was healthy or not in the list.
    Unhealthy,
    Removed,
}

impl fmt::Display for DeviceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Healthy => "Healthy",
            Self::Unhealthy => "Unhealthy",
            Self::Removed => "removed",
        })
    }
}
