//! The kubelet's gRPC APIs: generated types, constants, and conversions from and to the types in `model`.
//! Code outside of this module does not use generated field names such as `device_i_ds`.

mod codec;
pub(crate) mod grpc_code;

/// The device plugin API, generated from `proto/deviceplugin/v1beta1/api.proto`.
#[expect(missing_docs, clippy::pedantic, reason = "generated")]
pub mod v1beta1 {
    tonic::include_proto!("v1beta1");
}

/// The pod-resources API, generated from `proto/podresources/v1/api.proto`.
#[expect(missing_docs, clippy::pedantic, reason = "generated")]
pub mod podresources {
    tonic::include_proto!("v1");
}

use crate::model::allocation::{Allocation, DeviceFile, Mount};
use crate::model::device::{Device, Devices, Health, LIST_SIZE_MAX};

/// The version of the device plugin API. The kubelet accepts no other version.
pub const VERSION: &str = "v1beta1";

/// The authority of every request, the same as the kubelet's since Kubernetes 1.26.
pub(crate) const AUTHORITY: &str = "http://localhost";

/// The largest request that the kubelet can send, in bytes: a GetPreferredAllocation that names every device twice, as
/// available and as must-include.
pub(crate) const REQUEST_SIZE_MAX: usize = 2 * LIST_SIZE_MAX;

/// The GetPreferredAllocation request for one container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PreferenceRequest {
    /// The IDs to choose from, which contain those of `must_include`.
    pub available: Vec<String>,
    /// The IDs that the response must contain.
    pub must_include: Vec<String>,
    /// The number of IDs to return.
    pub size: usize,
}

impl From<&Devices> for v1beta1::ListAndWatchResponse {
    fn from(devices: &Devices) -> Self {
        Self {
            devices: devices.as_slice().iter().map(Into::into).collect(),
        }
    }
}

impl From<&Device> for v1beta1::Device {
    fn from(device: &Device) -> Self {
        let node = |id: &u16| v1beta1::NumaNode { id: (*id).into() };
        Self {
            id: device.id.to_string(),
            health: device.advertised_health().as_str().to_owned(),
            topology: (!device.numa.is_empty()).then(|| v1beta1::TopologyInfo {
                nodes: device.numa.iter().map(node).collect(),
            }),
        }
    }
}

impl v1beta1::Device {
    /// Returns the NUMA nodes of the device, empty if it has no topology.
    pub fn numa_nodes(&self) -> Vec<i64> {
        let nodes = self.topology.iter().flat_map(|topology| &topology.nodes);
        nodes.map(|node| node.id).collect()
    }

    /// Whether the kubelet treats the device as healthy.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.health == Health::Healthy.as_str()
    }

    /// Whether the health is a value that the API defines. The kubelet treats any other value as `Unhealthy`.
    #[must_use]
    pub fn has_known_health(&self) -> bool {
        self.is_healthy() || self.health == Health::Unhealthy.as_str()
    }
}

impl From<Allocation> for v1beta1::ContainerAllocateResponse {
    fn from(allocation: Allocation) -> Self {
        Self {
            envs: allocation.envs.into_iter().collect(),
            annotations: allocation.annotations.into_iter().collect(),
            devices: allocation
                .device_files
                .into_iter()
                .map(Into::into)
                .collect(),
            mounts: allocation.mounts.into_iter().map(Into::into).collect(),
            cdi_devices: allocation
                .cdi_devices
                .into_iter()
                .map(|name| v1beta1::CdiDevice { name })
                .collect(),
        }
    }
}

impl From<DeviceFile> for v1beta1::DeviceSpec {
    fn from(file: DeviceFile) -> Self {
        Self {
            container_path: file.container_path,
            host_path: file.host_path,
            permissions: file.permissions,
        }
    }
}

impl From<Mount> for v1beta1::Mount {
    fn from(mount: Mount) -> Self {
        Self {
            container_path: mount.container_path,
            host_path: mount.host_path,
            read_only: mount.read_only,
        }
    }
}

impl From<v1beta1::ContainerAllocateResponse> for Allocation {
    fn from(response: v1beta1::ContainerAllocateResponse) -> Self {
        let device_file = |spec: v1beta1::DeviceSpec| DeviceFile {
            container_path: spec.container_path,
            host_path: spec.host_path,
            permissions: spec.permissions,
        };
        let mount = |mount: v1beta1::Mount| Mount {
            container_path: mount.container_path,
            host_path: mount.host_path,
            read_only: mount.read_only,
        };
        Self {
            envs: response.envs.into_iter().collect(),
            annotations: response.annotations.into_iter().collect(),
            device_files: response.devices.into_iter().map(device_file).collect(),
            mounts: response.mounts.into_iter().map(mount).collect(),
            cdi_devices: response
                .cdi_devices
                .into_iter()
                .map(|device| device.name)
                .collect(),
        }
    }
}

/// Returns the device IDs of each container in the request.
pub(crate) fn container_device_ids(
    request: v1beta1::AllocateRequest,
) -> impl Iterator<Item = Vec<String>> {
    request
        .container_requests
        .into_iter()
        .map(|c| c.devices_ids)
}

/// Returns every device ID in the request.
pub(crate) fn allocate_request_ids(
    request: &v1beta1::AllocateRequest,
) -> impl Iterator<Item = &str> {
    let containers = request.container_requests.iter();
    containers
        .flat_map(|container| &container.devices_ids)
        .map(String::as_str)
}

/// Returns every device ID in the request. An ID that is both available and must-include is returned twice.
pub(crate) fn preferred_allocation_request_ids(
    request: &v1beta1::PreferredAllocationRequest,
) -> impl Iterator<Item = &str> {
    let containers = request.container_requests.iter();
    let lists = containers.flat_map(|container| {
        [
            &container.available_device_i_ds,
            &container.must_include_device_i_ds,
        ]
    });
    lists.flatten().map(String::as_str)
}

/// Builds the Allocate response from one allocation per container, in the order of [`container_device_ids`].
pub fn allocate_response(allocations: Vec<Allocation>) -> v1beta1::AllocateResponse {
    v1beta1::AllocateResponse {
        container_responses: allocations.into_iter().map(Into::into).collect(),
    }
}

/// Returns the response for the first container, or `None` if there is none. The kubelet requests one container per call.
pub fn first_container_response(
    response: v1beta1::AllocateResponse,
) -> Option<v1beta1::ContainerAllocateResponse> {
    response.container_responses.into_iter().next()
}

/// Builds the PreStartContainer request for a container with these devices.
pub fn pre_start_request(ids: Vec<String>) -> v1beta1::PreStartContainerRequest {
    v1beta1::PreStartContainerRequest { devices_ids: ids }
}

/// Builds an Allocate request for one container, as the kubelet does.
#[must_use]
pub fn allocate_request(ids: Vec<String>) -> v1beta1::AllocateRequest {
    v1beta1::AllocateRequest {
        container_requests: vec![v1beta1::ContainerAllocateRequest { devices_ids: ids }],
    }
}

/// Returns the request of each container. A negative size is treated as 0.
pub fn preference_requests(
    request: v1beta1::PreferredAllocationRequest,
) -> impl Iterator<Item = PreferenceRequest> {
    request
        .container_requests
        .into_iter()
        .map(|container| PreferenceRequest {
            available: container.available_device_i_ds,
            must_include: container.must_include_device_i_ds,
            size: container.allocation_size.try_into().unwrap_or(0),
        })
}

/// Builds a GetPreferredAllocation request for one container, as the kubelet does.
#[must_use]
pub fn preferred_allocation_request(
    request: PreferenceRequest,
) -> v1beta1::PreferredAllocationRequest {
    v1beta1::PreferredAllocationRequest {
        container_requests: vec![v1beta1::ContainerPreferredAllocationRequest {
            available_device_i_ds: request.available,
            must_include_device_i_ds: request.must_include,
            allocation_size: request.size.try_into().unwrap_or(i32::MAX),
        }],
    }
}

/// Builds the GetPreferredAllocation response from one list of IDs per container, in the order of [`preference_requests`].
#[must_use]
pub fn preferred_allocation_response(
    ids_by_container: impl Iterator<Item = Vec<String>>,
) -> v1beta1::PreferredAllocationResponse {
    v1beta1::PreferredAllocationResponse {
        container_responses: ids_by_container
            .map(|ids| v1beta1::ContainerPreferredAllocationResponse { device_i_ds: ids })
            .collect(),
    }
}

/// Returns the IDs for the first container, empty if there is none. The kubelet requests one container per call.
#[must_use]
pub fn preferred_ids(response: v1beta1::PreferredAllocationResponse) -> Vec<String> {
    let first = response.container_responses.into_iter().next();
    first
        .map(|container| container.device_i_ds)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::device::CountedDevices;
    use crate::model::numa::NumaNodes;
    use proptest::prelude::*;
    use prost::Message;

    fn pairs() -> impl Strategy<Value = Vec<(String, String)>> {
        let pairs = prop::collection::btree_map("[a-z]{1,200}", "[a-z]{0,200}", 0..4);
        pairs.prop_map(|pairs| pairs.into_iter().collect())
    }

    proptest! {
        /// `allocate` refuses a response by this size, so it must equal the encoded size.
        #[test]
        fn allocation_size_is_the_encoded_size(
            envs in pairs(),
            annotations in pairs(),
            paths in prop::collection::vec(("/[a-z]{0,200}", "/[a-z]{0,200}", any::<bool>()), 0..4),
            cdi_devices in prop::collection::vec("[a-z]{1,200}", 0..4),
        ) {
            let allocation = Allocation {
                envs,
                annotations,
                device_files: paths.iter().map(|(container_path, host_path, _)| DeviceFile {
                    container_path: container_path.clone(),
                    host_path: host_path.clone(),
                    permissions: "rw".to_owned(),
                }).collect(),
                mounts: paths.iter().map(|(container_path, host_path, read_only)| Mount {
                    container_path: container_path.clone(),
                    host_path: host_path.clone(),
                    read_only: *read_only,
                }).collect(),
                cdi_devices,
            };
            let size = allocation.size();
            prop_assert_eq!(size, allocate_response(vec![allocation]).encoded_len());
        }

        /// The configuration limits a list by this size, so it must equal the encoded size.
        #[test]
        fn list_size_is_the_encoded_size(
            prefix in "[a-z]{1,150}",
            count in 0_usize..300,
            numa in "((0|1|127|128|1023)(\\+(0|5)){0,2})?",
        ) {
            let numa: NumaNodes = numa.parse().unwrap_or_default();
            let counted = CountedDevices::new(&prefix, "node", numa);
            let mut devices = counted.devices(count);
            for index in 0..count {
                devices.set_health(&format!("{prefix}-node-{index}"), Health::Unhealthy).unwrap();
            }
            let encoded = v1beta1::ListAndWatchResponse::from(&devices).encoded_len();
            prop_assert_eq!(devices.list_size(), encoded);
            prop_assert_eq!(counted.list_size(count), Ok(encoded));
        }
    }
}
