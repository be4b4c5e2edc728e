//! Which devices pods hold, from whichever of the kubelet's two sources can be had.

use tracing::warn;

use crate::model::device::Device;
use crate::model::resource_name::ResourceName;
use crate::node::checkpoint_file::{CheckpointError, CheckpointFile};
use crate::node::pod_resources::PodResources;

/// The kubelet's pod-resources API, where it is configured, and its checkpoint. A clone shares what they said.
#[derive(Clone, Debug)]
pub(crate) struct Holders {
    /// Says it live, but not of all containers.
    pub pod_resources: Option<PodResources>,
    /// Says it as of the kubelet's last write, in which a deleted pod stays until the next admission.
    pub checkpoint: CheckpointFile,
}

impl Holders {
    /// The devices of this resource that pods hold, with the NUMA nodes under which the kubelet booked them. The checkpoint
    /// knows these, and is complete from the kubelet's first moment on; the API serves where it cannot be understood.
    pub async fn held(&self, resource: &ResourceName) -> Vec<Device> {
        let error = match self.checkpoint.read_recent().await {
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
        warn!(%resource, %error, "devices that pods hold may be missing from the list");
        Vec::new()
    }
}
