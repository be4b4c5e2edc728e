//! What the kubelet's checkpoint says: which resources are registered, and which pods hold which devices, as of its
//! last write. Its checksum is a hash of a Go struct and not checked.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;

use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::model::device::{Device, Devices};

/// What the file says.
#[derive(Debug, Default)]
pub struct Checkpoint {
    resources: BTreeMap<String, Known>,
}

/// What the kubelet knows of one resource.
#[derive(Debug, Default)]
pub struct Known {
    /// The registered device IDs; `None` if the resource is not registered.
    pub registered: Option<Registered>,
    /// The devices that pods hold, by ID.
    pub held: BTreeMap<Box<str>, Held>,
}

/// The devices that the kubelet can give to pods, in short: there may be very many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registered {
    /// The ID of any of them; `None` where there are none.
    pub one: Option<String>,
}

/// How the kubelet's word fits to a resource that has an open stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has our devices.
    Listed,
    /// It lacks the resource, or has it without any device though there are healthy ones.
    Lacking,
    /// It has devices that are not ours.
    OfAnother,
}

/// A device that pods hold.
#[derive(Debug, Default)]
pub struct Held {
    /// The NUMA nodes under which it is booked.
    pub numa: Vec<u16>,
    /// By whom; an init container's device can go to others of its pod.
    pub by: Vec<Holder>,
}

/// A container that holds a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The pod's UID; the kubelet writes no name.
    pub pod: Arc<str>,
    pub container: Arc<str>,
}

impl Checkpoint {
    /// What is known of this resource.
    pub fn of(&self, resource: &str) -> Option<&Known> {
        self.resources.get(resource)
    }

    /// Whether the kubelet has this resource, with devices or without.
    pub fn lists(&self, resource: &str) -> bool {
        self.of(resource)
            .is_some_and(|known| known.registered.is_some())
    }

    /// Whether the kubelet has this resource with these devices.
    pub fn standing(&self, resource: &str, devices: &Devices) -> Standing {
        let known = self
            .of(resource)
            .and_then(|known| known.registered.as_ref());
        let can_be_given = || devices.as_slice().iter().any(Device::is_allocatable);
        match known.map(|registered| registered.one.as_deref()) {
            Some(Some(id)) if devices.get(id).is_none() => Standing::OfAnother,
            Some(Some(_)) => Standing::Listed,
            Some(None) if !can_be_given() => Standing::Listed,
            Some(None) | None => Standing::Lacking,
        }
    }

    /// The devices of this resource that pods hold.
    pub fn held(&self, resource: &str) -> Vec<Device> {
        let held = self.of(resource).into_iter().flat_map(|known| &known.held);
        held.map(|(id, held)| Device::new(id.clone(), 0, held.numa.as_slice().into()))
            .collect()
    }
}

/// What matters of the file, with the field names of `devicemanager/checkpoint/checkpoint.go`. The kubelet writes every
/// field: where one is missing the file has another form, and says nothing rather than that there is nothing.
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
    registered_devices: Option<BTreeMap<String, Option<Registered>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    #[serde(default, rename = "PodUID")]
    pod_uid: Arc<str>,
    #[serde(default)]
    container_name: Arc<str>,
    resource_name: String,
    /// By NUMA node; -1: no topology.
    #[serde(rename = "DeviceIDs", deserialize_with = "Option::deserialize")]
    device_ids: Option<BTreeMap<String, Vec<Box<str>>>>,
}

/// Reads the text of a checkpoint.
///
/// # Errors
/// When it is none.
pub fn parse(text: &[u8]) -> io::Result<Checkpoint> {
    let data = serde_json::from_slice::<Content>(text)?.data;
    let mut resources = BTreeMap::<String, Known>::new();
    for (resource, registered) in data.registered_devices.unwrap_or_default() {
        resources.entry(resource).or_default().registered = Some(registered.unwrap_or_default());
    }
    for entry in data.pod_device_entries.unwrap_or_default() {
        let holder = Holder {
            pod: entry.pod_uid,
            container: entry.container_name,
        };
        let known = resources.entry(entry.resource_name).or_default();
        for (node, ids) in entry.device_ids.unwrap_or_default() {
            for id in ids {
                known.held.entry(id).or_default().add(&node, &holder);
            }
        }
    }
    Ok(Checkpoint { resources })
}

impl Held {
    fn add(&mut self, node: &str, holder: &Holder) {
        // -1 is none.
        if let Ok(node) = node.parse()
            && !self.numa.contains(&node)
        {
            self.numa.push(node);
            self.numa.sort_unstable();
        }
        // One whose devices are near to several nodes comes once for each, in a row.
        if self.by.last() != Some(holder) {
            self.by.push(holder.clone());
        }
    }
}

impl<'de> Deserialize<'de> for Registered {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Ids;
        impl<'de> Visitor<'de> for Ids {
            type Value = Registered;

            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("a list of device IDs")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut ids: A) -> Result<Registered, A::Error> {
                let one = ids.next_element()?;
                while ids.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Registered { one })
            }
        }
        deserializer.deserialize_seq(Ids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As kubelet 1.36 writes it.
    const TEXT: &[u8] = br#"{"Data":{"PodDeviceEntries":[
        {"PodUID":"u1","ContainerName":"c","ResourceName":"a/b","DeviceIDs":{"0":["x"],"1":["x","y"]},"AllocResp":"CgA="},
        {"PodUID":"u1","ContainerName":"d","ResourceName":"a/b","DeviceIDs":{"1":["y"]},"AllocResp":"CgA="},
        {"PodUID":"u2","ContainerName":"c","ResourceName":"a/c","DeviceIDs":{"-1":["z"]},"AllocResp":""}],
        "RegisteredDevices":{"a/b":["x","y","z"],"a/d":[],"a/e":null}},"Checksum":123}"#;

    #[test]
    fn tells_what_pods_hold() {
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
            let held = &checkpoint.of("a/b").unwrap().held[id];
            let name = |by: &Holder| format!("{}/{}", by.pod, by.container);
            held.by.iter().map(name).collect()
        };
        assert_eq!(holders("x"), ["u1/c"]);
        assert_eq!(holders("y"), ["u1/c", "u1/d"]);
    }

    #[test]
    fn tells_what_is_registered() {
        let checkpoint = parse(TEXT).unwrap();
        let registered = |resource: &str| checkpoint.of(resource)?.registered.clone();
        let one = |resource: &str| registered(resource).map(|registered| registered.one);
        assert_eq!(one("a/b"), Some(Some("x".to_owned())));
        assert_eq!(["a/c", "a/f"].map(one), [None, None]);
        assert_eq!(["a/d", "a/e"].map(one), [Some(None), Some(None)]);
    }

    #[test]
    fn tells_whether_a_resource_is_there_with_its_devices() {
        let checkpoint = parse(TEXT).unwrap();
        let standing = |resource: &str, ids: &[&str]| {
            let device = |id: &&str| Device::new(*id, 0, [].into());
            checkpoint.standing(
                resource,
                &Devices::from_list(ids.iter().map(device).collect()),
            )
        };
        assert_eq!(standing("a/b", &["w", "x"]), Standing::Listed);
        assert_eq!(standing("a/b", &["w"]), Standing::OfAnother);
        assert_eq!(standing("a/d", &["x"]), Standing::Lacking);
        assert_eq!(standing("a/d", &[]), Standing::Listed);
        assert_eq!(standing("a/c", &[]), Standing::Lacking);
    }

    #[test]
    fn an_empty_one_tells_nothing() {
        let empty = br#"{"Data":{"PodDeviceEntries":null,"RegisteredDevices":null},"Checksum":1}"#;
        assert!(parse(empty).unwrap().resources.is_empty());
        assert!(parse(b"{").is_err());
    }

    /// Other checkpoints of the kubelet moved to the first of these.
    #[test]
    fn another_form_is_an_error_and_not_empty() {
        for other in [
            r#"{"data": "{\"PodDeviceEntries\":null}", "dataChecksum": 1}"#,
            r#"{"Data": "{}", "Checksum": 1}"#,
            r#"{"Data": {}, "Checksum": 1}"#,
            r#"{"Data": {"PodDeviceEntries": null}, "Checksum": 1}"#,
            r#"{"Data": {"RegisteredDevices": {}}, "Checksum": 1}"#,
            r#"{"Data": {"PodDeviceEntries": [{"PodUID": "u", "ContainerName": "c", "ResourceName": "a/b"}],
                "RegisteredDevices": {}}, "Checksum": 1}"#,
        ] {
            assert!(parse(other.as_bytes()).is_err(), "{other}");
        }
    }
}
