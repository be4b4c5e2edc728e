//! How plugins crash a kubelet: it looks devices up in their list without asking whether they are there.
//! A third way needs init containers, which pods here have not.

use thiserror::Error;

/// The rule that a plugin broke. A real kubelet ends with a nil dereference and no such word.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Crash {
    /// `devicesToAllocate` and `Allocate` in `devicemanager/manager.go` book what they picked.
    #[error(
        "{resource}: device {id} went from the list while an allocation that picked it was in flight; \
         a device must stay, as Unhealthy, until no call can pick it"
    )]
    RemovedDuringAllocation {
        /// The resource.
        resource: String,
        /// The device.
        id: String,
    },
    /// `generateDeviceTopologyHints` in `devicemanager/topology_hints.go`, for a pod that has its devices.
    #[error(
        "{resource}: device {id} went from the list while pod {pod} holds it, and the pod was admitted again; \
         a device must stay, as Unhealthy, until no pod holds it"
    )]
    RemovedWhileHeld {
        /// The resource.
        resource: String,
        /// The device.
        id: String,
        /// The pod.
        pod: String,
    },
}
