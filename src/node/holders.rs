//! Finds the devices that pods hold, from the kubelet's checkpoint or its pod-resources API.

use tokio::time::Instant;
use tracing::warn;

use crate::model::device::Device;
use crate::model::resource_name::ResourceName;
use crate::node::checkpoint_file::{CheckpointError, CheckpointFile};
use crate::node::pod_resources::{AllocatableDevices, PodResources};

/// The kubelet's two sources. Clones share the last results.
#[derive(Clone, Debug)]
pub(crate) struct Holders {
    /// The live state, without init containers that have ended. `None` if the API is not configured.
    pub pod_resources: Option<PodResources>,
    /// The state of the kubelet's last write. A deleted pod is listed until the next pod with devices is admitted.
    pub checkpoint: CheckpointFile,
}

impl Holders {
    /// Returns the kubelet's healthy devices from an answer that is at most 1 s old, or `None` without the API or an
    /// answer.
    pub async fn allocatable_recent(&self) -> Option<AllocatableDevices> {
        self.pod_resources.as_ref()?.allocatable_recent().await.ok()
    }

    /// Returns the devices of a resource that pods hold. The checkpoint is used first, because it has the NUMA nodes
    /// and is complete as soon as the kubelet runs. The API, without NUMA nodes, is used if the checkpoint cannot be
    /// read. The result is at most 100 ms old, and not from before `since`.
    pub async fn held(&self, resource: &ResourceName, since: Option<Instant>) -> Vec<Device> {
        let error = match self.checkpoint.read_recent(since).await {
            Ok(loaded) => return loaded.checkpoint.held(resource.as_str()),
            Err(CheckpointError::Missing) => return Vec::new(),
            Err(error) => error,
        };
        if let Some(pod_resources) = &self.pod_resources
            && let Ok(devices) = pod_resources.list().await
        {
            let ids = devices.device_ids(resource.as_str());
            return ids.map(|id| Device::new(id, 0, [].into())).collect();
        }
        warn!(%resource, %error, "cannot read which devices pods hold; the device list may lack some of them");
        Vec::new()
    }
}
