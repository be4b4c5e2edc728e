//! What a kubelet sees of its plugins, as it comes.

use std::fmt;

/// Something that happened to a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The resource's name, as the plugin spelled it.
    pub resource: String,
    /// What happened.
    pub kind: EventKind,
}

/// What can happen to a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// Its plugin registered and told its options.
    Registered {
        /// The plugin's socket, a file name.
        endpoint: String,
        /// It wants PreStartContainer.
        pre_start: bool,
        /// It answers GetPreferredAllocation.
        preferred: bool,
    },
    /// The same plugin registered again, and this kubelet does nothing about it.
    Ignored {
        /// The plugin's socket, a file name.
        endpoint: String,
    },
    /// A registration failed.
    Refused {
        /// The plugin's socket, a file name.
        endpoint: String,
        /// What the plugin was told.
        error: String,
    },
    /// A list came.
    Listed {
        /// Devices that are healthy.
        healthy: usize,
        /// Devices that are not.
        unhealthy: usize,
        /// A health that is neither `Healthy` nor `Unhealthy`, where a device has one: it counts as ill.
        unknown_health: Option<String>,
        /// What is different from the list before; nothing where there was none.
        changes: Vec<DeviceChange>,
    },
    /// The stream of its plugin ended: every device is taken for ill.
    Disconnected {
        /// Why, unless the plugin ended it in order.
        error: Option<String>,
    },
}

/// One device's difference between two lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceChange {
    /// The device's ID.
    pub id: String,
    /// What it is now.
    pub state: DeviceState,
}

/// What became of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceState {
    /// It is Healthy, and was not or was not there.
    Healthy,
    /// It is Unhealthy, and was not or was not there.
    Unhealthy,
    /// The list has it no more.
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
