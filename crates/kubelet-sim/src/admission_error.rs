//! Why the kubelet rejects a pod.

use std::path::PathBuf;

use thiserror::Error;

use crate::crash::Crash;

/// Why the kubelet rejects a pod. A `String` alone is a resource name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AdmissionError {
    /// The resource is registered, but has no healthy device.
    #[error("{0}: no healthy device is available")]
    NoHealthyDevice(String),
    /// A device that the pod's init container got is no longer healthy.
    #[error("{0}: a device that an init container of the pod holds is no longer healthy")]
    NoLongerHealthy(String),
    /// A pod holds devices of the resource, but no plugin has registered it.
    #[error("{0}: no plugin has registered the resource, whose devices another pod holds")]
    Unregistered(String),
    /// Fewer healthy devices are available than the container requests.
    #[error("{resource}: {requested} devices are requested, {available} are available")]
    TooFew {
        resource: String,
        /// The number of devices that the container requests, without those that it reuses.
        requested: usize,
        /// The number of healthy devices that are not allocated.
        available: usize,
    },
    /// The resource's endpoint is stopped: its plugin disconnected and did not register again, or registered before the
    /// kubelet marked the endpoint as stopped.
    #[error("{0}: its plugin has been stopped")]
    Stopped(String),
    /// The topology policy rejects the pod: see [`TopologyPolicy`](crate::TopologyPolicy).
    #[error("Resources cannot be allocated with Topology locality")]
    TopologyAffinity,
    /// The pod's admission timed out while it waited for a plugin: see
    /// [`KubeletSettings::admission_timeout`](crate::KubeletSettings::admission_timeout).
    #[error("{resource}: {rpc} was canceled, because the admission of the pod timed out")]
    TimedOut {
        resource: String,
        /// The name of the RPC: `Allocate` or `GetPreferredAllocation`.
        rpc: &'static str,
    },
    /// The checkpoint with the container's devices could not be written. Until devices are freed the next time, the
    /// rejected pod holds them.
    #[error("cannot write the checkpoint {}: {error}; make it a file that the kubelet can replace", path.display())]
    Checkpoint { path: PathBuf, error: String },
    /// The admission made the kubelet crash.
    #[error("the kubelet crashed: {0}")]
    Crashed(#[from] Crash),
    /// The plugin returned an error, or the connection to it ended.
    #[error("{resource}: {rpc} failed: {error}")]
    Plugin {
        resource: String,
        /// The name of the RPC: `Allocate` or `GetPreferredAllocation`.
        rpc: &'static str,
        /// The gRPC code and the message.
        error: String,
    },
}

impl AdmissionError {
    /// Returns the reason in the pod's status: `TopologyAffinityError` or `UnexpectedAdmissionError`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TopologyAffinity => "TopologyAffinityError",
            _ => "UnexpectedAdmissionError",
        }
    }
}
