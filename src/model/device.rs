//! A resource's devices: their IDs, health and NUMA nodes, and the encoded size of their list.

use std::collections::BTreeMap;
use std::sync::Arc;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::model::numa::NumaNodes;

/// In bytes. The largest message that the kubelet's gRPC client accepts, which is grpc-go's default.
pub const LIST_SIZE_MAX: usize = 4 * 1024 * 1024;

/// The health of a device in the device plugin API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum Health {
    /// The device counts as allocatable.
    Healthy,
    /// The device counts in the node's capacity but not as allocatable.
    Unhealthy,
}

impl Health {
    /// Returns the value in the API (`v1beta1.Healthy`, `v1beta1.Unhealthy`).
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "Healthy",
            Self::Unhealthy => "Unhealthy",
        }
    }
}

/// Values of a device that only templates use. The list for the kubelet does not contain them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Detail {
    /// The value of the placeholder `{path}`.
    pub path: Option<String>,
    /// The values of the placeholders `{<name>}`, by name.
    pub attributes: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Unique in its resource and stable across restarts.
    pub id: Box<str>,
    /// Position in the configured list, from 0.
    pub index: usize,
    /// Advertised to the kubelet and checked by Allocate, unless the device is pending removal.
    pub health: Health,
    /// The NUMA nodes of the device. Empty means no topology. Devices with the same nodes can share the allocation.
    pub numa: Arc<[u16]>,
    /// Whether the device is pending removal: it is advertised as Unhealthy until no pod can hold it.
    pub removing: bool,
    /// `None` for devices without path and attributes, which saves memory in large lists.
    pub(crate) detail: Option<Arc<Detail>>,
}

impl Device {
    /// Creates a healthy device without path and attributes.
    pub fn new(id: impl Into<Box<str>>, index: usize, numa: Arc<[u16]>) -> Self {
        Self {
            id: id.into(),
            index,
            health: Health::Healthy,
            numa,
            removing: false,
            detail: None,
        }
    }

    /// Returns the health that is advertised to the kubelet.
    pub(crate) fn advertised_health(&self) -> Health {
        if self.removing {
            Health::Unhealthy
        } else {
            self.health
        }
    }

    /// Whether Allocate accepts the device.
    pub fn is_allocatable(&self) -> bool {
        self.advertised_health() == Health::Healthy
    }

    pub fn path(&self) -> Option<&str> {
        self.detail.as_ref()?.path.as_deref()
    }

    pub(crate) fn attribute(&self, name: &str) -> Option<&str> {
        self.detail
            .as_ref()?
            .attributes
            .get(name)
            .map(String::as_str)
    }

    /// Returns the encoded size of the device in a list, in bytes, as if the device were Unhealthy.
    pub fn list_size(&self) -> usize {
        device_size(self.id.len(), &self.numa)
    }
}

/// The devices of a resource, in the order in which they are advertised.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Devices {
    list: Vec<Device>,
    /// Positions in `list`, sorted by ID.
    by_id: Vec<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("no device has this ID")]
pub struct UnknownDevice;

impl Devices {
    /// Creates a list from devices with distinct IDs.
    pub(crate) fn from_list(list: Vec<Device>) -> Self {
        let mut by_id: Vec<u32> = (0..).take(list.len()).collect();
        by_id.sort_by(|a, b| list[*a as usize].id.cmp(&list[*b as usize].id));
        Self { list, by_id }
    }

    pub fn as_slice(&self) -> &[Device] {
        &self.list
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub fn get(&self, id: &str) -> Option<&Device> {
        self.position(id).map(|position| &self.list[position])
    }

    /// Whether Allocate accepts any of the devices.
    pub(crate) fn has_allocatable(&self) -> bool {
        self.list.iter().any(Device::is_allocatable)
    }

    /// Returns the encoded size of the list, in bytes, as if every device were Unhealthy.
    pub fn list_size(&self) -> usize {
        self.list.iter().map(Device::list_size).sum()
    }

    /// Whether the kubelet receives the same message for both lists.
    pub(crate) fn is_advertised_alike(&self, other: &Self) -> bool {
        let is_equal = |(one, other): (&Device, &Device)| {
            one.id == other.id
                && one.advertised_health() == other.advertised_health()
                && one.numa == other.numa
        };
        self.len() == other.len() && std::iter::zip(&self.list, &other.list).all(is_equal)
    }

    /// Sets a device's health. Returns whether the health changed.
    ///
    /// # Errors
    /// Returns an error if no device has this ID.
    pub fn set_health(&mut self, id: &str, health: Health) -> Result<bool, UnknownDevice> {
        let position = self.position(id).ok_or(UnknownDevice)?;
        let old = std::mem::replace(&mut self.list[position].health, health);
        Ok(old != health)
    }

    /// Returns the position in [`Devices::as_slice`] of the device with this ID.
    pub fn position(&self, id: &str) -> Option<usize> {
        self.by_id
            .binary_search_by(|position| (*self.list[*position as usize].id).cmp(id))
            .ok()
            .map(|found| self.by_id[found] as usize)
    }
}

/// Generates the devices of a resource that is configured with a number of devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CountedDevices {
    /// Device IDs have the form `<prefix>-<node>-<index>`.
    prefix: String,
    node: String,
    numa: NumaNodes,
}

/// A list of devices is larger than the kubelet accepts, which is [`LIST_SIZE_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Error)]
#[error(
    "at most {fit} devices with IDs of this length, because the kubelet accepts lists of at most 4 MiB"
)]
pub struct ListTooLarge {
    /// The largest number of devices whose list fits.
    pub fit: usize,
}

impl CountedDevices {
    /// Devices are distributed over the NUMA nodes in turn.
    pub fn new(prefix: &str, node: &str, numa: NumaNodes) -> Self {
        Self {
            prefix: prefix.to_owned(),
            node: node.to_owned(),
            numa,
        }
    }

    /// Generates `count` healthy devices.
    pub fn devices(&self, count: usize) -> Devices {
        let no_topology: Arc<[u16]> = Arc::new([]);
        let nodes = self.numa.as_slice().iter();
        let shared: Vec<Arc<[u16]>> = nodes.map(|node| Arc::from([*node])).collect();
        let device = |index| {
            let position = self.numa.position_of(index);
            let numa = position.map_or(&no_topology, |position| &shared[position]);
            Device::new(self.id(index), index, Arc::clone(numa))
        };
        Devices::from_list((0..count).map(device).collect())
    }

    fn id(&self, index: usize) -> Box<str> {
        format!("{}-{}-{index}", self.prefix, self.node).into()
    }

    /// Returns the encoded size, in bytes, of the list of `count` Unhealthy devices. The list is not built, and the
    /// computation stops at [`LIST_SIZE_MAX`], so the time is bounded for any `count`.
    ///
    /// # Errors
    /// Returns an error if the size exceeds [`LIST_SIZE_MAX`].
    pub fn list_size(&self, count: usize) -> Result<usize, ListTooLarge> {
        let mut total = 0;
        let mut digits = 1;
        let mut next_power: usize = 10;
        for index in 0..count {
            if index == next_power {
                digits += 1;
                next_power = next_power.saturating_mul(10);
            }
            let id = self.prefix.len() + 1 + self.node.len() + 1 + digits;
            total += device_size(id, self.numa.node_of(index).as_slice());
            if total > LIST_SIZE_MAX {
                return Err(ListTooLarge { fit: index });
            }
        }
        Ok(total)
    }
}

/// Returns the encoded size of an Unhealthy device, in bytes. `Healthy` is shorter, so the size is the maximum.
fn device_size(id: usize, numa: &[u16]) -> usize {
    let health = Health::Unhealthy.as_str().len();
    delimited(delimited(id) + delimited(health) + topology_size(numa))
}

/// Returns the encoded size of `Device.topology`, in bytes. proto3 omits a NUMA node ID of 0.
fn topology_size(numa: &[u16]) -> usize {
    let node = |node: &u16| match usize::from(*node) {
        0 => delimited(0),
        id => delimited(1 + varint_size(id)),
    };
    match numa {
        [] => 0,
        nodes => delimited(nodes.iter().map(node).sum()),
    }
}

/// Returns the encoded size, in bytes, of a length-delimited field with `len` bytes of content: tag, length and content.
pub const fn delimited(len: usize) -> usize {
    1 + varint_size(len) + len
}

const fn varint_size(mut value: usize) -> usize {
    let mut bytes = 1;
    while value > 0x7f {
        value >>= 7;
        bytes += 1;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numa(text: &str) -> NumaNodes {
        text.parse().unwrap()
    }

    #[test]
    fn ids_consist_of_prefix_node_and_index() {
        let devices = CountedDevices::new("gpu", "worker", numa("0+2")).devices(11);
        assert_eq!(&*devices.as_slice()[10].id, "gpu-worker-10");
        assert_eq!(*devices.as_slice()[1].numa, [2]);
        assert_eq!(devices.get("gpu-worker-9").map(|d| d.index), Some(9));
        assert_eq!(devices.get("gpu-worker-11"), None);
    }

    #[test]
    fn sets_the_health_by_id() {
        let mut devices = CountedDevices::new("gpu", "worker", NumaNodes::default()).devices(2);
        assert_eq!(
            devices.set_health("gpu-worker-1", Health::Unhealthy),
            Ok(true)
        );
        assert_eq!(
            devices.set_health("gpu-worker-1", Health::Unhealthy),
            Ok(false)
        );
        assert_eq!(devices.as_slice()[1].health, Health::Unhealthy);
        assert_eq!(
            devices.set_health("other", Health::Healthy),
            Err(UnknownDevice)
        );
    }

    #[test]
    fn refuses_a_list_that_is_too_large_with_the_count_that_fits() {
        let Err(ListTooLarge { fit }) =
            CountedDevices::new("gpu", "worker", NumaNodes::default()).list_size(usize::MAX)
        else {
            panic!("an endless list fits");
        };
        assert!(
            CountedDevices::new("gpu", "worker", NumaNodes::default())
                .list_size(fit)
                .is_ok()
        );
        assert_eq!(
            CountedDevices::new("gpu", "worker", NumaNodes::default()).list_size(fit + 1),
            Err(ListTooLarge { fit })
        );
    }
}
