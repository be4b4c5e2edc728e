//! The device plugin API on the wire: the one file that spells the generated field names that are odd.

mod codec;
pub(crate) mod grpc_code;

/// The generated API, as `proto/deviceplugin/v1beta1/api.proto` has it.
#[expect(missing_docs, clippy::pedantic, reason = "generated")]
pub mod v1beta1 {
    tonic::include_proto!("v1beta1");
}

/// The generated pod-resources API, as `proto/podresources/v1/api.proto` has it.
#[expect(missing_docs, clippy::pedantic, reason = "generated")]
pub mod podresources {
    tonic::include_proto!("v1");
}

use crate::model::allocation::{Allocation, DeviceFile, Mount};
use crate::model::device::{Device, Devices, Health, LIST_SIZE_MAX};

/// The only version of the API that kubelets speak.
pub const VERSION: &str = "v1beta1";

/// The authority of every request: what the kubelet sends since 1.26.
pub(crate) const AUTHORITY: &str = "http://localhost";

/// The largest request that a kubelet can have to send, in bytes: the IDs of a whole list, once as
/// available and once as must-include.
pub(crate) const REQUEST_SIZE_MAX: usize = 2 * LIST_SIZE_MAX;

/// One container's question to GetPreferredAllocation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PreferenceQuestion {
    /// The IDs to choose from.
    pub available: Vec<String>,
    /// The IDs that must be part of the answer.
    pub must_include: Vec<String>,
    /// How many IDs to answer.
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
    /// The NUMA nodes it is near to.
    pub fn numa_nodes(&self) -> Vec<i64> {
        let nodes = self.topology.iter().flat_map(|topology| &topology.nodes);
        nodes.map(|node| node.id).collect()
    }

    /// Whether the kubelet takes it for healthy.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.health == Health::Healthy.as_str()
    }

    /// Whether its health is a word of the API. The kubelet takes every other for `Unhealthy`.
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

/// The IDs of each container.
pub(crate) fn allocations(request: v1beta1::AllocateRequest) -> impl Iterator<Item = Vec<String>> {
    request
        .container_requests
        .into_iter()
        .map(|c| c.devices_ids)
}

/// Every ID in the request.
pub(crate) fn named_in_allocation(
    request: &v1beta1::AllocateRequest,
) -> impl Iterator<Item = &str> {
    let containers = request.container_requests.iter();
    containers
        .flat_map(|container| &container.devices_ids)
        .map(String::as_str)
}

/// Every ID in the request.
pub(crate) fn named_in_question(
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

/// The answer to [`allocations`], one for each container.
pub fn allocated(answers: Vec<Allocation>) -> v1beta1::AllocateResponse {
    v1beta1::AllocateResponse {
        container_responses: answers.into_iter().map(Into::into).collect(),
    }
}

/// What the first container of an answer gets: the kubelet asks for one only. `None` for an empty answer.
pub fn first_allocated(
    response: v1beta1::AllocateResponse,
) -> Option<v1beta1::ContainerAllocateResponse> {
    response.container_responses.into_iter().next()
}

/// The announcement that a container with these devices starts.
pub fn pre_start_of(ids: Vec<String>) -> v1beta1::PreStartContainerRequest {
    v1beta1::PreStartContainerRequest { devices_ids: ids }
}

/// A request for one container, as the kubelet makes it.
#[must_use]
pub fn allocation_of(ids: Vec<String>) -> v1beta1::AllocateRequest {
    v1beta1::AllocateRequest {
        container_requests: vec![v1beta1::ContainerAllocateRequest { devices_ids: ids }],
    }
}

/// The question of each container; a negative size asks for nothing.
pub(crate) fn preferences(
    request: v1beta1::PreferredAllocationRequest,
) -> impl Iterator<Item = PreferenceQuestion> {
    request
        .container_requests
        .into_iter()
        .map(|container| PreferenceQuestion {
            available: container.available_device_i_ds,
            must_include: container.must_include_device_i_ds,
            size: container.allocation_size.try_into().unwrap_or(0),
        })
}

/// A question for one container, as the kubelet asks it.
#[must_use]
pub fn preference_of(question: PreferenceQuestion) -> v1beta1::PreferredAllocationRequest {
    v1beta1::PreferredAllocationRequest {
        container_requests: vec![v1beta1::ContainerPreferredAllocationRequest {
            available_device_i_ds: question.available,
            must_include_device_i_ds: question.must_include,
            allocation_size: question.size.try_into().unwrap_or(i32::MAX),
        }],
    }
}

/// The answer to [`preferences`], one list of IDs for each container.
#[must_use]
pub fn preferred(
    answers: impl Iterator<Item = Vec<String>>,
) -> v1beta1::PreferredAllocationResponse {
    v1beta1::PreferredAllocationResponse {
        container_responses: answers
            .map(|ids| v1beta1::ContainerPreferredAllocationResponse { device_i_ds: ids })
            .collect(),
    }
}

/// The IDs for the first container of an answer: the kubelet asks for one only.
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
    use crate::model::device::Counted;
    use crate::model::numa::NumaNodes;
    use proptest::prelude::*;
    use prost::Message;

    fn pairs() -> impl Strategy<Value = Vec<(String, String)>> {
        let pairs = prop::collection::btree_map("[a-z]{1,200}", "[a-z]{0,200}", 0..4);
        pairs.prop_map(|pairs| pairs.into_iter().collect())
    }

    proptest! {
        /// The size that an answer is refused by is the size that goes over the wire.
        #[test]
        fn the_size_of_an_allocation_is_the_encoded_size(
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
            prop_assert_eq!(size, allocated(vec![allocation]).encoded_len());
        }

        /// The size that the configuration computes is the size that goes over the wire.
        #[test]
        fn the_computed_size_is_the_encoded_size(
            prefix in "[a-z]{1,150}",
            count in 0_usize..300,
            numa in "((0|1|127|128|1023)(\\+(0|5)){0,2})?",
        ) {
            let numa: NumaNodes = numa.parse().unwrap_or_default();
            let counted = Counted::new(&prefix, "node", numa);
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
