//! `kubelet_internal_checkpoint` in the plugin dir: which pods hold which devices, as of the kubelet's last
//! write. Only read here; its checksum is of Go's making and not judged.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use tokio::time::timeout;

use crate::device::Device;
use crate::regular_file::read_at_most;

/// The file's name in the plugin dir.
pub const FILE: &str = "kubelet_internal_checkpoint";

/// In bytes: many times that of a hundred resources of a thousand devices.
pub const SIZE_MAX: u64 = 64 << 20;

/// From a disk that hangs, it is not read at all.
const READ_WITHIN: Duration = Duration::from_secs(5);

/// What matters of the file, with the field names of `devicemanager/checkpoint/checkpoint.go`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Checkpoint {
    data: Data,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Data {
    pod_device_entries: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    resource_name: String,
    /// By NUMA node; -1: no topology.
    #[serde(rename = "DeviceIDs")]
    device_ids: Option<BTreeMap<String, Vec<String>>>,
}

/// The devices that pods hold, by resource.
pub type Held = BTreeMap<String, Vec<Device>>;

/// Reads who holds what.
///
/// # Errors
/// When there is no such file yet, or it cannot be read.
pub fn held(dir: &Path) -> io::Result<Held> {
    parse(&read_at_most(&dir.join(FILE), SIZE_MAX)?)
}

/// Like [`held`], beside everything else that runs: a large file takes its time.
///
/// # Errors
/// The same.
pub async fn held_aside(dir: &Path) -> io::Result<Held> {
    let dir = dir.to_owned();
    let reading = tokio::task::spawn_blocking(move || held(&dir));
    match timeout(READ_WITHIN, reading).await {
        Ok(read) => read.unwrap_or_else(|error| Err(error.into())),
        Err(late) => Err(late.into()),
    }
}

/// Reads the text of a checkpoint.
///
/// # Errors
/// When it is none.
pub fn parse(text: &[u8]) -> io::Result<Held> {
    let checkpoint: Checkpoint = serde_json::from_slice(text)?;
    let mut nodes: BTreeMap<(String, String), Vec<u16>> = BTreeMap::new();
    for entry in checkpoint.data.pod_device_entries.unwrap_or_default() {
        for (node, ids) in entry.device_ids.unwrap_or_default() {
            for id in ids {
                let nodes = nodes.entry((entry.resource_name.clone(), id)).or_default();
                // -1 is none.
                nodes.extend(node.parse::<u16>());
            }
        }
    }
    let mut held = Held::new();
    for ((resource, id), mut nodes) in nodes {
        nodes.sort_unstable();
        nodes.dedup();
        held.entry(resource)
            .or_default()
            .push(Device::new(id, 0, nodes.into()));
    }
    Ok(held)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_what_pods_hold() {
        // As kubelet 1.36 writes it.
        let text = br#"{"Data":{"PodDeviceEntries":[
            {"PodUID":"u1","ContainerName":"c","ResourceName":"a/b","DeviceIDs":{"0":["x"],"1":["x","y"]},"AllocResp":"CgA="},
            {"PodUID":"u2","ContainerName":"c","ResourceName":"a/c","DeviceIDs":{"-1":["z"]},"AllocResp":""}],
            "RegisteredDevices":{"a/b":["x","y","z"]}},"Checksum":123}"#;
        let held = parse(text).unwrap();
        let devices = |resource: &str| -> Vec<_> {
            held[resource]
                .iter()
                .map(|d| (&*d.id, d.numa.to_vec()))
                .collect()
        };
        assert_eq!(devices("a/b"), [("x", vec![0, 1]), ("y", vec![1])]);
        assert_eq!(devices("a/c"), [("z", vec![])]);
        let empty = br#"{"Data":{"PodDeviceEntries":null,"RegisteredDevices":{}},"Checksum":1}"#;
        assert!(parse(empty).unwrap().is_empty());
        assert!(parse(b"{").is_err());
    }

    #[test]
    fn no_file_is_an_error_and_a_pipe_is_no_file() {
        let dir = tempfile::tempdir().unwrap();
        assert!(held(dir.path()).is_err());
        let pipe = std::process::Command::new("mkfifo")
            .arg(dir.path().join(FILE))
            .status();
        assert!(pipe.unwrap().success());
        assert!(held(dir.path()).is_err());
    }
}
