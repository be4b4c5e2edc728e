//! The devices that containers hold. It follows `pkg/kubelet/cm/devicemanager/pod_devices.go`.

use std::collections::{BTreeMap, BTreeSet};

use simple_device_plugin::api::v1beta1;

use crate::pod::ContainerKind;

/// The devices of one resource that a container holds (`deviceAllocateInfo`).
#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    /// The name of the pod, which is also its UID here.
    pub pod: String,
    pub container: String,
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

/// Device IDs by resource.
pub(super) type DevicesByResource = BTreeMap<String, BTreeSet<String>>;

/// Adds the devices of the assignments to `devices`.
pub(super) fn add_devices<'a>(
    devices: &mut DevicesByResource,
    assignments: impl IntoIterator<Item = &'a Assignment>,
) {
    for assignment in assignments {
        let ids = devices.entry(assignment.resource.clone()).or_default();
        ids.extend(assignment.ids().into_iter().map(str::to_owned));
    }
}

/// The devices of a pod's init containers that its later containers take before others (`devicesToReuse` in
/// `manager.go`).
#[derive(Debug, Default)]
pub(crate) struct ReusableDevices(DevicesByResource);

impl ReusableDevices {
    pub(crate) fn of(&self, resource: &str) -> Option<&BTreeSet<String>> {
        self.0.get(resource)
    }

    /// Updates the devices after a container got its own: those of an init container can be reused, those of a sidecar
    /// or an app container cannot.
    pub(crate) fn container_admitted<'a>(
        &mut self,
        kind: ContainerKind,
        held: impl IntoIterator<Item = &'a Assignment>,
    ) {
        if kind == ContainerKind::Init {
            add_devices(&mut self.0, held);
            return;
        }
        for assignment in held {
            if let Some(reusable) = self.0.get_mut(&assignment.resource) {
                let ids = assignment.ids();
                reusable.retain(|id| !ids.contains(id.as_str()));
            }
        }
    }
}
