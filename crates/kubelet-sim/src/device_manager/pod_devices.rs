//! The devices that pods hold. It follows `pkg/kubelet/cm/devicemanager/pod_devices.go`.

use std::collections::{BTreeMap, BTreeSet};

use simple_device_plugin::api::v1beta1;

/// The devices of one resource that a pod's container holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    /// The name of the pod, which is also its UID here.
    pub pod: String,
    pub resource: String,
    /// The device IDs by NUMA node; -1 is the key of devices without topology information. A device on several NUMA
    /// nodes is listed under each.
    pub devices: BTreeMap<i64, BTreeSet<String>>,
    /// The plugin's response to Allocate.
    pub response: v1beta1::ContainerAllocateResponse,
}

impl Assignment {
    /// Returns the device IDs, each once.
    pub fn ids(&self) -> BTreeSet<&str> {
        self.devices
            .values()
            .flatten()
            .map(String::as_str)
            .collect()
    }
}
