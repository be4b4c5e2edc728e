//! How a plugin makes a kubelet crash. The device manager dereferences a device in the plugin's list without checking
//! that the list still has it.

use thiserror::Error;

/// The rule that a plugin violated. A real kubelet ends with a nil dereference and no such explanation. A third way to
/// crash needs init containers, which the pods here do not have.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Crash {
    /// The plugin removed a device that an allocation in flight had chosen (`devicesToAllocate` and `Allocate` in
    /// `devicemanager/manager.go`).
    #[error(
        "{resource}: device {id} went from the list while an allocation that picked it was in flight; \
         a device must stay, as Unhealthy, until no call can pick it"
    )]
    RemovedDuringAllocation {
        /// The resource name.
        resource: String,
        /// The device ID.
        id: String,
    },
    /// The plugin removed a device that a pod holds, and the pod was admitted again with a topology manager
    /// (`generateDeviceTopologyHints` in `devicemanager/topology_hints.go`).
    #[error(
        "{resource}: device {id} went from the list while pod {pod} holds it, and the pod was admitted again; \
         a device must stay, as Unhealthy, until no pod holds it"
    )]
    RemovedWhileHeld {
        /// The resource name.
        resource: String,
        /// The device ID.
        id: String,
        /// The pod name.
        pod: String,
    },
}
