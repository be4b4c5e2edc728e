//! Which devices pods hold, from whichever of the kubelet's two sources can be had.

use tracing::{debug, warn};

use crate::checkpoint_file::{CheckpointError, CheckpointFile, Written};
use crate::device::Device;
use crate::pod_resources::{PodDevices, PodResources, PodResourcesError};
use crate::resource_name::ResourceName;

/// The kubelet's pod-resources API, where it is configured, and its checkpoint. A clone shares what they said.
#[derive(Clone, Debug)]
pub struct Holders {
    /// Says it live.
    pub pod_resources: Option<PodResources>,
    /// Says it as of the kubelet's last write, in which a deleted pod stays until the next admission.
    pub checkpoint: CheckpointFile,
}

/// What one of them said.
pub enum Said {
    /// The pod-resources API.
    Listed(PodDevices),
    /// The pod-resources API did not answer this time.
    NoAnswer,
    /// The checkpoint, where the API cannot be reached.
    Checkpoint(Written),
    /// Neither can be read.
    Nothing,
}

impl Holders {
    /// Asks the pod-resources API, or where it cannot be reached the checkpoint.
    pub async fn ask(&self, resource: &ResourceName) -> Said {
        if let Some(pod_resources) = &self.pod_resources {
            match pod_resources.list().await {
                Ok(devices) => return Said::Listed(devices),
                Err(error @ PodResourcesError::NoAnswer(_)) => {
                    debug!(%resource, %error, "devices pending removal stay");
                    return Said::NoAnswer;
                }
                Err(error) => debug!(%resource, %error, "reading the checkpoint instead"),
            }
        }
        match self.checkpoint.read().await {
            Ok(written) => Said::Checkpoint(written),
            Err(error) => {
                debug!(%resource, %error, "devices pending removal stay");
                Said::Nothing
            }
        }
    }

    /// The devices of this resource that pods hold, with the NUMA nodes under which the kubelet booked them. The checkpoint
    /// knows these, and is complete from the kubelet's first moment on; the API serves where it cannot be understood.
    pub async fn held(&self, resource: &ResourceName) -> Vec<Device> {
        let error = match self.checkpoint.read_lately().await {
            Ok(written) => return written.checkpoint.held(resource.as_str()),
            Err(CheckpointError::Missing) => return Vec::new(),
            Err(error) => error,
        };
        if let Some(pod_resources) = &self.pod_resources
            && let Ok(devices) = pod_resources.list().await
        {
            let ids = devices.of(resource.as_str());
            return ids.map(|id| Device::new(id, 0, [].into())).collect();
        }
        warn!(%resource, %error, "devices that pods hold may be missing from the list");
        Vec::new()
    }
}
