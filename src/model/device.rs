//! A resource's devices: their IDs, health and NUMA nodes, and the size of their list on the wire.

use std::collections::BTreeMap;
use std::sync::Arc;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::model::numa::NumaNodes;

/// The largest message that the kubelet's gRPC client takes (grpc-go's default), in bytes.
pub const LIST_SIZE_MAX: usize = 4 * 1024 * 1024;

/// Health as the kubelet knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum Health {
    /// Counts as allocatable.
    Healthy,
    /// Stays in capacity, leaves allocatable.
    Unhealthy,
}

impl Health {
    /// The word on the wire (`v1beta1.Healthy`, `v1beta1.Unhealthy`).
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "Healthy",
            Self::Unhealthy => "Unhealthy",
        }
    }
}

/// What a device has besides, for what a container gets with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Detail {
    /// Stands for `{path}`.
    pub path: Option<String>,
    /// Stand for `{<name>}`.
    pub attributes: BTreeMap<String, String>,
}

/// One device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Unique in its resource, the same after every restart.
    pub id: Box<str>,
    /// Its place in the resource's list, from 0.
    pub index: usize,
    /// Reported to the kubelet and checked by Allocate.
    pub health: Health,
    /// The NUMA nodes it is near to; empty: no topology. Shared between the devices of a node.
    pub numa: Arc<[u16]>,
    /// Whether it is pending removal: reported as Unhealthy until no pod can have it.
    pub removing: bool,
    /// What else it has; none for most, of which there can be many.
    pub(crate) detail: Option<Arc<Detail>>,
}

impl Device {
    /// A healthy one with nothing besides.
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

    /// The health that is reported to the kubelet.
    pub(crate) fn advertised_health(&self) -> Health {
        if self.removing {
            Health::Unhealthy
        } else {
            self.health
        }
    }

    /// Whether Allocate gives it.
    pub fn can_be_given(&self) -> bool {
        self.advertised_health() == Health::Healthy
    }

    /// Its path, where it has one.
    pub fn path(&self) -> Option<&str> {
        self.detail.as_ref()?.path.as_deref()
    }

    /// Its attribute of this name.
    pub(crate) fn attribute(&self, name: &str) -> Option<&str> {
        self.detail
            .as_ref()?
            .attributes
            .get(name)
            .map(String::as_str)
    }

    /// The bytes that it takes in a list on the wire, were it Unhealthy.
    pub fn list_size(&self) -> usize {
        device_size(self.id.len(), &self.numa)
    }
}

/// A resource's whole list, in index order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Devices {
    list: Vec<Device>,
    /// Positions in `list`, sorted by ID.
    by_id: Vec<u32>,
}

/// An ID that no device has.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("no device has this ID")]
pub struct UnknownDevice;

impl Devices {
    /// These devices, each with an ID of its own.
    pub(crate) fn from_list(list: Vec<Device>) -> Self {
        let mut by_id: Vec<u32> = (0..).take(list.len()).collect();
        by_id.sort_by(|a, b| list[*a as usize].id.cmp(&list[*b as usize].id));
        Self { list, by_id }
    }

    /// The devices in index order.
    pub fn as_slice(&self) -> &[Device] {
        &self.list
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The device with this ID.
    pub fn get(&self, id: &str) -> Option<&Device> {
        self.position(id).map(|position| &self.list[position])
    }

    /// The bytes of the list on the wire, were every device Unhealthy; never over [`LIST_SIZE_MAX`].
    pub fn list_size(&self) -> usize {
        self.list.iter().map(Device::list_size).sum()
    }

    /// Whether both are the same to the kubelet.
    pub(crate) fn is_reported_alike(&self, other: &Self) -> bool {
        let alike = |(one, other): (&Device, &Device)| {
            one.id == other.id
                && one.advertised_health() == other.advertised_health()
                && one.numa == other.numa
        };
        self.len() == other.len() && std::iter::zip(&self.list, &other.list).all(alike)
    }

    /// Sets a device's health and tells whether that changed anything.
    ///
    /// # Errors
    /// When no device has this ID.
    pub fn set_health(&mut self, id: &str, health: Health) -> Result<bool, UnknownDevice> {
        let position = self.position(id).ok_or(UnknownDevice)?;
        let old = std::mem::replace(&mut self.list[position].health, health);
        Ok(old != health)
    }

    /// The place in the list of the device with this ID.
    pub fn position(&self, id: &str) -> Option<usize> {
        self.by_id
            .binary_search_by(|position| (*self.list[*position as usize].id).cmp(id))
            .ok()
            .map(|found| self.by_id[found] as usize)
    }
}

/// How the devices of a counted resource come about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// IDs are `<prefix>-<node>-<index>`.
    prefix: String,
    node: String,
    numa: NumaNodes,
}

/// A counted list that the kubelet could not receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Error)]
#[error("at most {fit} devices with such IDs, or the list passes the kubelet's 4 MiB")]
pub struct ListTooLarge {
    /// How many devices would fit.
    pub fit: usize,
}

impl Counted {
    /// With IDs of this prefix and node, dealt over `numa` in turn.
    pub fn new(prefix: &str, node: &str, numa: NumaNodes) -> Self {
        Self {
            prefix: prefix.to_owned(),
            node: node.to_owned(),
            numa,
        }
    }

    /// So many devices, all healthy.
    pub fn devices(&self, count: usize) -> Devices {
        let no_topology: Arc<[u16]> = Arc::new([]);
        let nodes = self.numa.as_slice().iter();
        let shared: Vec<Arc<[u16]>> = nodes.map(|node| Arc::from([*node])).collect();
        let device = |index| {
            let turn = self.numa.turn(index);
            let numa = turn.map_or(&no_topology, |turn| &shared[turn]);
            Device::new(self.id(index), index, Arc::clone(numa))
        };
        Devices::from_list((0..count).map(device).collect())
    }

    fn id(&self, index: usize) -> Box<str> {
        format!("{}-{}-{index}", self.prefix, self.node).into()
    }

    /// The bytes of their list, with every device Unhealthy. It is computed without building it, in a time
    /// that does not depend on `count` once the list is too large.
    ///
    /// # Errors
    /// When the list is over [`LIST_SIZE_MAX`].
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
            total += device_size(id, self.numa.deal(index).as_slice());
            if total > LIST_SIZE_MAX {
                return Err(ListTooLarge { fit: index });
            }
        }
        Ok(total)
    }
}

/// The bytes of one Unhealthy device in a list: the longer of the two words.
fn device_size(id: usize, numa: &[u16]) -> usize {
    let health = Health::Unhealthy.as_str().len();
    delimited(delimited(id) + delimited(health) + topology_size(numa))
}

/// The bytes of `Device.topology`; proto3 leaves out a NUMA node's ID of 0.
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

/// The bytes of a length-delimited field with this many bytes in it: tag, length, content.
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
    fn ids_are_prefix_node_index() {
        let devices = Counted::new("gpu", "worker", numa("0+2")).devices(11);
        assert_eq!(&*devices.as_slice()[10].id, "gpu-worker-10");
        assert_eq!(*devices.as_slice()[1].numa, [2]);
        assert_eq!(devices.get("gpu-worker-9").map(|d| d.index), Some(9));
        assert_eq!(devices.get("gpu-worker-11"), None);
    }

    #[test]
    fn health_is_set_by_id() {
        let mut devices = Counted::new("gpu", "worker", NumaNodes::default()).devices(2);
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
    fn too_large_a_list_says_what_fits() {
        let Err(ListTooLarge { fit }) =
            Counted::new("gpu", "worker", NumaNodes::default()).list_size(usize::MAX)
        else {
            panic!("an endless list fits");
        };
        assert!(
            Counted::new("gpu", "worker", NumaNodes::default())
                .list_size(fit)
                .is_ok()
        );
        assert_eq!(
            Counted::new("gpu", "worker", NumaNodes::default()).list_size(fit + 1),
            Err(ListTooLarge { fit })
        );
    }
}
