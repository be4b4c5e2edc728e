//! `kubelet_internal_checkpoint`: the file from which a kubelet restores device assignments when it restarts. It
//! follows `pkg/kubelet/cm/devicemanager/checkpoint/checkpoint.go`.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher;
use std::io;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use prost::Message;
use serde::{Deserialize, Serialize};

use simple_device_plugin::model::resource_name::ResourceName;
use simple_device_plugin::node::checkpoint_file::{FILE, SIZE_MAX};
use simple_device_plugin::util::sanitize::sanitize;

use crate::device_manager::Assignment;

/// The contents of a checkpoint.
#[derive(Debug, Default)]
pub struct CheckpointContents {
    /// The names of the resources that plugins had registered.
    pub registered: Vec<String>,
    /// The device assignments of pods, including pods that were deleted shortly before the kubelet wrote the file.
    pub assignments: Vec<Assignment>,
}

/// The file's JSON, with the field names of the kubelet's `Data`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct StoredCheckpoint {
    data: StoredData,
    /// The kubelet hashes Go's printed form of `Data`, and the simulator hashes its JSON, so neither accepts the
    /// other's file.
    checksum: u64,
}

/// The kubelet's `checkpointData`.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct StoredData {
    pod_device_entries: Option<Vec<StoredEntry>>,
    /// The healthy device IDs by resource name.
    registered_devices: Option<BTreeMap<String, Vec<String>>>,
}

/// The kubelet's `PodDevicesEntry`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct StoredEntry {
    #[serde(rename = "PodUID")]
    pod_uid: String,
    container_name: String,
    resource_name: String,
    /// The device IDs by NUMA node.
    #[serde(rename = "DeviceIDs")]
    device_ids: BTreeMap<String, BTreeSet<String>>,
    /// The encoded `ContainerAllocateResponse` in base64.
    alloc_resp: String,
}

/// Reads the checkpoint in a device plugin directory. If there is no checkpoint, the contents are empty.
///
/// # Errors
/// Returns an error if the file cannot be read, is not a regular file of at most 64 MiB, is not valid, or was not
/// written by the simulator.
pub fn read(dir: &Path) -> io::Result<CheckpointContents> {
    let path = dir.join(FILE);
    let metadata = match path.metadata() {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(CheckpointContents::default());
        }
        Err(error) => return Err(error),
    };
    if !metadata.is_file() || metadata.len() > SIZE_MAX {
        return Err(invalid(&"expected a regular file of at most 64 MiB"));
    }
    let text = std::fs::read(path)?;
    let checkpoint: StoredCheckpoint = serde_json::from_slice(&text)?;
    if checksum(&checkpoint.data)? != checkpoint.checksum {
        return Err(invalid(&"the checkpoint is corrupted"));
    }
    contents(checkpoint.data)
}

/// Parses a checkpoint without verifying its checksum, which a fuzzer cannot guess.
///
/// # Errors
/// Returns an error if the text is not a valid checkpoint.
pub fn parse(text: &[u8]) -> io::Result<CheckpointContents> {
    let checkpoint: StoredCheckpoint = serde_json::from_slice(text)?;
    contents(checkpoint.data)
}

fn contents(data: StoredData) -> io::Result<CheckpointContents> {
    let registered = data.registered_devices.unwrap_or_default();
    let entries = data.pod_device_entries.unwrap_or_default();
    let registered = registered.into_keys().map(valid_resource_name);
    let assignments = entries.into_iter().map(assignment);
    Ok(CheckpointContents {
        registered: registered.collect::<io::Result<_>>()?,
        assignments: assignments.collect::<io::Result<_>>()?,
    })
}

/// Returns the name if it is a valid resource name.
fn valid_resource_name(name: String) -> io::Result<String> {
    match ResourceName::parse(&name) {
        Ok(_) => Ok(name),
        Err(_) => Err(invalid(&format!(
            "invalid resource name {}",
            sanitize(&name)
        ))),
    }
}

fn invalid(error: &dyn std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

/// Writes the checkpoint to a temporary file and renames that, so that a reader never sees a partial file.
pub(crate) fn write(
    dir: &Path,
    registered: BTreeMap<String, Vec<String>>,
    assignments: &[Assignment],
) -> io::Result<()> {
    let data = StoredData {
        pod_device_entries: Some(assignments.iter().map(entry).collect()),
        registered_devices: Some(registered),
    };
    let checksum = checksum(&data)?;
    let text = serde_json::to_string(&StoredCheckpoint { data, checksum })?;
    let temporary = dir.join(format!(".{FILE}"));
    std::fs::write(&temporary, text)?;
    std::fs::rename(temporary, dir.join(FILE))
}

fn entry(assignment: &Assignment) -> StoredEntry {
    let by_node = assignment.devices.iter();
    StoredEntry {
        pod_uid: assignment.pod.clone(),
        container_name: assignment.container.clone(),
        resource_name: assignment.resource.clone(),
        device_ids: by_node
            .map(|(node, ids)| (node.to_string(), ids.clone()))
            .collect(),
        alloc_resp: BASE64.encode(assignment.response.encode_to_vec()),
    }
}

fn assignment(entry: StoredEntry) -> io::Result<Assignment> {
    let response = BASE64.decode(entry.alloc_resp).map_err(|e| invalid(&e))?;
    let by_node = entry.device_ids.into_iter().map(|(node, ids)| {
        let node = node.parse().map_err(|e| invalid(&e))?;
        Ok((node, ids))
    });
    Ok(Assignment {
        pod: entry.pod_uid,
        container: entry.container_name,
        resource: valid_resource_name(entry.resource_name)?,
        devices: by_node.collect::<io::Result<_>>()?,
        response: Message::decode(response.as_slice()).map_err(|e| invalid(&e))?,
    })
}

fn checksum(data: &StoredData) -> serde_json::Result<u64> {
    let mut hasher = fnv::FnvHasher::default();
    hasher.write(&serde_json::to_vec(data)?);
    Ok(hasher.finish())
}
