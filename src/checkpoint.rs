//! `kubelet_internal_checkpoint` in the plugin dir: which resources are registered, and which pods hold which
//! devices, as of the kubelet's last write. Only read here; its checksum is of Go's making and not judged.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::device::{Device, Devices};
use crate::regular_file::{RegularFile, Version};

/// The file's name in the plugin dir.
pub const FILE: &str = "kubelet_internal_checkpoint";

/// In bytes: many times that of a hundred resources of a thousand devices.
pub const SIZE_MAX: u64 = 64 << 20;

/// From a disk that hangs, it is not read at all.
const READ_WITHIN: Duration = Duration::from_secs(5);

/// What the file says.
#[derive(Debug, Default)]
pub struct Checkpoint {
    resources: BTreeMap<String, Known>,
}

/// What the kubelet knows of one resource.
#[derive(Debug, Default)]
pub struct Known {
    /// Whom it has as the resource's devices; `None` where it has no such resource.
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
    /// The container's name.
    pub container: Arc<str>,
}

impl Checkpoint {
    /// What is known of this resource.
    pub fn of(&self, resource: &str) -> Option<&Known> {
        self.resources.get(resource)
    }

    /// Whether the kubelet has this resource with these devices.
    pub fn standing(&self, resource: &str, devices: &Devices) -> Standing {
        let known = self
            .of(resource)
            .and_then(|known| known.registered.as_ref());
        let can_be_given = || devices.as_slice().iter().any(Device::can_be_given);
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

/// The file in one plugin dir. It is read again only when it changed, and by one at a time: of a disk that hangs
/// one thread is a prisoner, not one for each look. A clone shares what was read.
#[derive(Clone, Debug)]
pub struct CheckpointFile {
    path: PathBuf,
    last: Arc<Mutex<LastRead>>,
}

#[derive(Debug)]
struct LastRead {
    path: PathBuf,
    /// Also what could not be understood.
    read: Option<(Version, Result<Written, String>)>,
}

/// What the kubelet wrote, and when.
#[derive(Clone, Debug)]
pub struct Written {
    /// What.
    pub checkpoint: Arc<Checkpoint>,
    /// When.
    pub at: SystemTime,
    /// The file that it was.
    pub version: Version,
}

impl CheckpointFile {
    /// The one in this plugin dir.
    pub fn new(dir: &Path) -> Self {
        let path = dir.join(FILE);
        let last = LastRead {
            path: path.clone(),
            read: None,
        };
        Self {
            path,
            last: Arc::new(Mutex::new(last)),
        }
    }

    /// Which file stands there now; `None` where there is none. As the plugin dir is looked at all the time, this
    /// needs no thread.
    pub fn version(&self) -> Option<Version> {
        self.path.metadata().ok().as_ref().map(Version::from)
    }

    /// What the file says now; a changed one is read beside everything else that runs, since a large one takes
    /// its time.
    ///
    /// # Errors
    /// When there is no such file yet, or it cannot be read within 5 s, or not be understood.
    pub async fn read(&self) -> io::Result<Written> {
        if let Ok(last) = self.last.try_lock()
            && let Some((version, read)) = &last.read
            && self.version() == Some(*version)
        {
            return read.clone().map_err(io::Error::other);
        }
        let reading = async {
            // Goes with the thread, which may be held up for longer than we wait.
            let mut last = Arc::clone(&self.last).lock_owned().await;
            tokio::task::spawn_blocking(move || last.read()).await?
        };
        timeout(READ_WITHIN, reading).await?
    }
}

impl LastRead {
    fn read(&mut self) -> io::Result<Written> {
        let file = RegularFile::open(&self.path)?;
        let version = Version::from(file.metadata());
        // Somebody may have read it while we stood in line.
        if let Some((before, read)) = &self.read
            && *before == version
        {
            return read.clone().map_err(io::Error::other);
        }
        let at = file.metadata().modified()?;
        let text = file.read_at_most(SIZE_MAX)?;
        let written = parse(&text).map(|checkpoint| Written {
            checkpoint: Arc::new(checkpoint),
            at,
            version,
        });
        let read = written.map_err(|error| error.to_string());
        // What changed a moment ago may change again, and look the same: a file system's clock is coarse.
        self.read = version.is_settled().then(|| (version, read.clone()));
        read.map_err(io::Error::other)
    }
}

/// What matters of the file, with the field names of `devicemanager/checkpoint/checkpoint.go`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Content {
    data: Data,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Data {
    pod_device_entries: Option<Vec<Entry>>,
    #[serde(default)]
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
    #[serde(rename = "DeviceIDs")]
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
        let empty = br#"{"Data":{"PodDeviceEntries":null,"RegisteredDevices":{}},"Checksum":1}"#;
        assert!(parse(empty).unwrap().resources.is_empty());
        assert!(parse(b"{").is_err());
    }

    #[tokio::test]
    async fn no_file_is_an_error_and_a_pipe_is_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = CheckpointFile::new(dir.path());
        assert!(file.read().await.is_err());
        let pipe = std::process::Command::new("mkfifo")
            .arg(dir.path().join(FILE))
            .status();
        assert!(pipe.unwrap().success());
        assert!(file.read().await.is_err());
    }

    #[tokio::test]
    async fn only_what_changed_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = CheckpointFile::new(dir.path());
        let write = |text: &[u8]| {
            // As the kubelet does: a new file in the place of the old.
            let new = dir.path().join("new");
            std::fs::write(&new, text).unwrap();
            std::fs::rename(new, dir.path().join(FILE)).unwrap();
        };
        write(TEXT);
        assert!(file.read().await.unwrap().checkpoint.of("a/b").is_some());
        // Too young to be told from what may come in its place.
        std::thread::sleep(Version::SETTLES_WITHIN);
        let first = file.read().await.unwrap();
        let again = file.clone().read().await.unwrap();
        assert!(Arc::ptr_eq(&first.checkpoint, &again.checkpoint));
        write(br#"{"Data":{"PodDeviceEntries":null}}"#);
        let other = file.read().await.unwrap();
        assert!(other.checkpoint.of("a/b").is_none());
        write(b"{");
        assert!(file.read().await.is_err());
    }
}
