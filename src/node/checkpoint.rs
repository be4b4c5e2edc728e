//! Parses the kubelet's checkpoint: the registered resources and the devices that pods hold, as of the kubelet's last
//! write. The checksum is not verified, because it is a hash of the printed form of a Go struct.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;

use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::model::device::{Device, Devices};

/// The contents of a checkpoint.
#[derive(Debug, Default)]
pub struct Checkpoint {
    resources: BTreeMap<String, CheckpointedResource>,
}

/// The contents of a checkpoint about one resource.
#[derive(Debug, Default)]
pub struct CheckpointedResource {
    /// `None` if the resource is not registered.
    pub registered: Option<RegisteredDevices>,
    /// The devices that pods hold, by device ID.
    pub held: BTreeMap<Box<str>, HeldDevice>,
}

/// The devices that the kubelet can allocate. Only one ID is kept, since a resource can have very many devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegisteredDevices {
    /// The ID of one registered device, or `None` if there are none.
    pub any_id: Option<String>,
}

/// How the kubelet's healthy devices compare with those of a plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListingStatus<'a> {
    /// The kubelet has devices of this plugin.
    Listed,
    /// The kubelet has no device of the resource, and the plugin has no healthy one.
    NoneHealthy,
    /// The kubelet has no device of the resource, or does not know the resource, although the plugin has healthy devices.
    Lacking,
    /// The kubelet has devices that this plugin does not have, for example the one with this ID.
    OtherDevices(&'a str),
}

/// A device that pods hold.
#[derive(Debug, Default)]
pub struct HeldDevice {
    /// The NUMA nodes for which the kubelet recorded the device, in ascending order.
    pub numa: Vec<u16>,
    /// Several containers of a pod can hold the same device: other containers reuse an init container's devices.
    pub holders: Vec<Holder>,
}

/// A container that holds a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Holder {
    /// The checkpoint has no pod names.
    pub pod_uid: Arc<str>,
    pub container: Arc<str>,
}

impl<'a> ListingStatus<'a> {
    /// Compares IDs of the kubelet's healthy devices of a resource with the devices of its plugin.
    pub(crate) fn of(ids: impl IntoIterator<Item = &'a String>, devices: &Devices) -> Self {
        let mut ids = ids.into_iter().peekable();
        if ids.peek().is_none() {
            return if devices.has_allocatable() {
                Self::Lacking
            } else {
                Self::NoneHealthy
            };
        }
        ids.find(|id| devices.get(id).is_none())
            .map_or(Self::Listed, |id| Self::OtherDevices(id))
    }
}

impl Checkpoint {
    /// Returns what the checkpoint says about a resource, if anything.
    pub fn get(&self, resource: &str) -> Option<&CheckpointedResource> {
        self.resources.get(resource)
    }

    /// Returns the healthy devices of the resource, or `None` if the resource is not registered.
    pub(crate) fn registered(&self, resource: &str) -> Option<&RegisteredDevices> {
        self.get(resource)?.registered.as_ref()
    }

    /// Compares the checkpoint with the devices of a resource.
    pub fn listing_status(&self, resource: &str, devices: &Devices) -> ListingStatus<'_> {
        match self.registered(resource) {
            Some(registered) => ListingStatus::of(registered.any_id.iter(), devices),
            None => ListingStatus::Lacking,
        }
    }

    /// Returns the devices of a resource that pods hold.
    pub fn held(&self, resource: &str) -> Vec<Device> {
        let held = self
            .get(resource)
            .into_iter()
            .flat_map(|listed| &listed.held);
        held.map(|(id, held)| Device::new(id.clone(), 0, held.numa.as_slice().into()))
            .collect()
    }
}

/// The file's fields that are used, named as in `devicemanager/checkpoint/checkpoint.go`. The kubelet writes every
/// field. So a missing field means an unknown format, which is an error and not an empty checkpoint.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Content {
    data: Data,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Data {
    #[serde(deserialize_with = "Option::deserialize")]
    pod_device_entries: Option<Vec<Entry>>,
    #[serde(deserialize_with = "Option::deserialize")]
    registered_devices: Option<BTreeMap<String, Option<RegisteredDevices>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    #[serde(default, rename = "PodUID")]
    pod_uid: Arc<str>,
    #[serde(default)]
    container_name: Arc<str>,
    resource_name: String,
    /// Device IDs by NUMA node. Node -1 means no topology.
    #[serde(rename = "DeviceIDs", deserialize_with = "Option::deserialize")]
    device_ids: Option<BTreeMap<String, Vec<Box<str>>>>,
}

/// Parses a checkpoint.
///
/// # Errors
/// Returns an error if the text is not JSON or lacks a required field.
pub fn parse(text: &[u8]) -> io::Result<Checkpoint> {
    let data = serde_json::from_slice::<Content>(text)?.data;
    let mut resources = BTreeMap::<String, CheckpointedResource>::new();
    for (resource, registered) in data.registered_devices.unwrap_or_default() {
        resources.entry(resource).or_default().registered = Some(registered.unwrap_or_default());
    }
    for entry in data.pod_device_entries.unwrap_or_default() {
        let holder = Holder {
            pod_uid: entry.pod_uid,
            container: entry.container_name,
        };
        let listed = resources.entry(entry.resource_name).or_default();
        for (node, ids) in entry.device_ids.unwrap_or_default() {
            for id in ids {
                listed.held.entry(id).or_default().add(&node, &holder);
            }
        }
    }
    Ok(Checkpoint { resources })
}

impl HeldDevice {
    fn add(&mut self, node: &str, holder: &Holder) {
        // Node -1 (no topology) does not parse as a `u16`.
        if let Ok(node) = node.parse()
            && !self.numa.contains(&node)
        {
            self.numa.push(node);
            self.numa.sort_unstable();
        }
        // A container's device with several NUMA nodes is listed once per node, in consecutive calls.
        if self.holders.last() != Some(holder) {
            self.holders.push(holder.clone());
        }
    }
}

impl<'de> Deserialize<'de> for RegisteredDevices {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Ids;
        impl<'de> Visitor<'de> for Ids {
            type Value = RegisteredDevices;

            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("a list of device IDs")
            }

            fn visit_seq<A: SeqAccess<'de>>(
                self,
                mut ids: A,
            ) -> Result<RegisteredDevices, A::Error> {
                let any_id = ids.next_element()?;
                while ids.next_element::<IgnoredAny>()?.is_some() {}
                Ok(RegisteredDevices { any_id })
            }
        }
        deserializer.deserialize_seq(Ids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The format of kubelet 1.36.
    const TEXT: &[u8] = br#"{"Data":{"PodDeviceEntries":[
        {"PodUID":"u1","ContainerName":"c","ResourceName":"a/b","DeviceIDs":{"0":["x"],"1":["x","y"]},"AllocResp":"CgA="},
        {"PodUID":"u1","ContainerName":"d","ResourceName":"a/b","DeviceIDs":{"1":["y"]},"AllocResp":"CgA="},
        {"PodUID":"u2","ContainerName":"c","ResourceName":"a/c","DeviceIDs":{"-1":["z"]},"AllocResp":""}],
        "RegisteredDevices":{"a/b":["x","y","z"],"a/d":[],"a/e":null}},"Checksum":123}"#;

    #[test]
    fn returns_the_devices_that_pods_hold() {
        let checkpoint = parse(TEXT).unwrap();
        let devices = |resource: &str| -> Vec<_> {
            let held = checkpoint.held(resource);
            held.iter()
                .map(|d| (d.id.to_string(), d.numa.to_vec()))
                .collect()
        };
        assert_eq!(
            devices("a/b"),
            [("x".to_owned(), vec![0, 1]), ("y".to_owned(), vec![1])]
        );
        assert_eq!(devices("a/c"), [("z".to_owned(), vec![])]);
        let holders = |id: &str| -> Vec<String> {
            let held = &checkpoint.get("a/b").unwrap().held[id];
            let name = |by: &Holder| format!("{}/{}", by.pod_uid, by.container);
            held.holders.iter().map(name).collect()
        };
        assert_eq!(holders("x"), ["u1/c"]);
        assert_eq!(holders("y"), ["u1/c", "u1/d"]);
    }

    #[test]
    fn returns_the_registered_resources() {
        let checkpoint = parse(TEXT).unwrap();
        let registered = |resource: &str| checkpoint.get(resource)?.registered.clone();
        let any_id = |resource: &str| registered(resource).map(|registered| registered.any_id);
        assert_eq!(any_id("a/b"), Some(Some("x".to_owned())));
        assert_eq!(["a/c", "a/f"].map(any_id), [None, None]);
        assert_eq!(["a/d", "a/e"].map(any_id), [Some(None), Some(None)]);
    }

    #[test]
    fn compares_the_listed_devices_with_those_of_the_plugin() {
        let checkpoint = parse(TEXT).unwrap();
        let listing_status = |resource: &str, ids: &[&str]| {
            let device = |id: &&str| Device::new(*id, 0, [].into());
            checkpoint.listing_status(
                resource,
                &Devices::from_list(ids.iter().map(device).collect()),
            )
        };
        assert_eq!(listing_status("a/b", &["w", "x"]), ListingStatus::Listed);
        assert_eq!(
            listing_status("a/b", &["w"]),
            ListingStatus::OtherDevices("x")
        );
        assert_eq!(listing_status("a/d", &["x"]), ListingStatus::Lacking);
        assert_eq!(listing_status("a/d", &[]), ListingStatus::NoneHealthy);
        assert_eq!(listing_status("a/c", &[]), ListingStatus::Lacking);
    }

    #[test]
    fn parses_an_empty_checkpoint_and_rejects_truncated_json() {
        let empty = br#"{"Data":{"PodDeviceEntries":null,"RegisteredDevices":null},"Checksum":1}"#;
        assert!(parse(empty).unwrap().resources.is_empty());
        assert!(parse(b"{").is_err());
    }

    /// The kubelet already uses the first of these formats for other checkpoints.
    #[test]
    fn an_unknown_format_is_an_error_and_not_an_empty_checkpoint() {
        for text in [
            r#"{"data": "{\"PodDeviceEntries\":null}", "dataChecksum": 1}"#,
            r#"{"Data": "{}", "Checksum": 1}"#,
            r#"{"Data": {}, "Checksum": 1}"#,
            r#"{"Data": {"PodDeviceEntries": null}, "Checksum": 1}"#,
            r#"{"Data": {"RegisteredDevices": {}}, "Checksum": 1}"#,
            r#"{"Data": {"PodDeviceEntries": [{"PodUID": "u", "ContainerName": "c", "ResourceName": "a/b"}],
                "RegisteredDevices": {}}, "Checksum": 1}"#,
        ] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
