//! How a plugin can make a kubelet crash: the device manager dereferences a device of the plugin's list without
//! checking that the list still contains it.

use thiserror::Error;

/// The rule that a plugin violated. A real kubelet panics with a nil dereference and does not name the rule.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Crash {
    /// The plugin removed a device that an allocation in flight had chosen (`devicesToAllocate` and `Allocate` in
    /// `devicemanager/manager.go`).
    #[error(
        "{resource}: the plugin removed device {id} from its list during an allocation that had chosen it; \
         keep a device in the list, as Unhealthy, until no allocation can choose it"
    )]
    RemovedDuringAllocation { resource: String, id: String },
    /// The plugin removed a device of an init container before a later container of the pod reused it
    /// (`allocateContainerResources` in `devicemanager/manager.go`).
    #[error(
        "{resource}: the plugin removed device {id} of an init container from its list before container {container} \
         of pod {pod} reused it; keep a device in the list, as Unhealthy, until no pod holds it"
    )]
    RemovedBeforeReuse {
        resource: String,
        id: String,
        pod: String,
        /// The container that reuses the device.
        container: String,
    },
    /// The plugin removed a device that a pod holds, and the pod was admitted again with a topology manager
    /// (`generateDeviceTopologyHints` in `devicemanager/topology_hints.go`).
    #[error(
        "{resource}: the plugin removed device {id} from its list while pod {pod} held it, and the pod was admitted \
         again; keep a device in the list, as Unhealthy, until no pod holds it"
    )]
    RemovedWhileHeld {
        resource: String,
        id: String,
        pod: String,
    },
}
