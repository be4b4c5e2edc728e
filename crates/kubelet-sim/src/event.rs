//! What the kubelet observes of its plugins.

use std::fmt;

/// Something that the kubelet observed of the plugin of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The resource name in the plugin's request, which need not be valid. It is at most 256 characters long, and
    /// control characters are escaped.
    pub resource: String,
    /// What happened.
    pub kind: EventKind,
}

/// What can happen to a resource. Texts from the plugin are at most 256 characters long, and control characters are
/// escaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// The plugin registered and answered GetDevicePluginOptions.
    Registered {
        /// The file name of the plugin's socket.
        endpoint: String,
        /// Whether the plugin requires PreStartContainer.
        pre_start: bool,
        /// Whether the plugin implements GetPreferredAllocation.
        preferred: bool,
    },
    /// The connected plugin registered again with the same socket, and the kubelet ignored it: see
    /// [`Behavior::Newer`](crate::Behavior::Newer).
    Ignored {
        /// The file name of the plugin's socket.
        endpoint: String,
    },
    /// A registration failed.
    Refused {
        /// The file name of the plugin's socket.
        endpoint: String,
        /// The error that Register returned.
        error: String,
    },
    /// The plugin sent a list on its ListAndWatch stream.
    Listed {
        /// The number of healthy devices.
        healthy: usize,
        /// The number of unhealthy devices.
        unhealthy: usize,
        /// The first health that is neither `Healthy` nor `Unhealthy`. The kubelet takes such a device for unhealthy.
        unknown_health: Option<String>,
        /// The differences from the list before; none if that was empty or this is the first list.
        changes: Vec<DeviceChange>,
    },
    /// The plugin's stream ended, and the kubelet marked all devices as unhealthy.
    Disconnected {
        /// The error of the stream; `None` if the plugin closed it without one.
        error: Option<String>,
    },
}

/// A device that differs between two lists of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceChange {
    /// The device ID.
    pub id: String,
    /// The state in the newer list.
    pub state: DeviceState,
}

/// The state of a device in a list. It is displayed as `Healthy`, `Unhealthy` or `gone`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceState {
    /// The device is healthy, and was unhealthy or not in the list before.
    Healthy,
    /// The device is unhealthy, and was healthy or not in the list before.
    Unhealthy,
    /// The device was in the list before and is no longer.
    Removed,
}

impl fmt::Display for DeviceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Healthy => "Healthy",
            Self::Unhealthy => "Unhealthy",
            Self::Removed => "gone",
        })
    }
}
