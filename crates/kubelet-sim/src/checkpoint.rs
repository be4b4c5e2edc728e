//! `kubelet_internal_checkpoint`: what the device manager remembers over its own restart.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher;
use std::io;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use prost::Message;
use serde::{Deserialize, Serialize};

use simple_device_plugin::foreign::foreign;
use simple_device_plugin::model::resource_name::ResourceName;
use simple_device_plugin::node::checkpoint_file::{FILE, SIZE_MAX};

use super::device_manager::Assignment;

/// Pods have one container here.
pub(super) const CONTAINER: &str = "main";

/// The file, with the field names of `checkpoint.go`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct StoredCheckpoint {
    data: StoredData,
    /// The kubelet hashes Go's print of `Data`, this one its JSON: each reads only its own.
    checksum: u64,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct StoredData {
    pod_device_entries: Option<Vec<StoredEntry>>,
    registered_devices: Option<BTreeMap<String, Vec<String>>>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct StoredEntry {
    #[serde(rename = "PodUID")]
    pod_uid: String,
    container_name: String,
    resource_name: String,
    #[serde(rename = "DeviceIDs")]
    device_ids: BTreeMap<String, BTreeSet<String>>,
    /// `ContainerAllocateResponse`, encoded, in base64.
    alloc_resp: String,
}

/// Resources that were registered, and what pods hold.
pub type Contents = (Vec<String>, Vec<Assignment>);

/// Reads the file in this directory; where there is none, it is empty.
///
/// # Errors
/// When it cannot be read, is broken, or was written by another kubelet than this.
pub fn read(dir: &Path) -> io::Result<Contents> {
    let path = dir.join(FILE);
    let file = match path.metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Contents::default()),
        file => file?,
    };
    if !file.is_file() || file.len() > SIZE_MAX {
        return Err(invalid(&"it is no file of at most 64 MiB"));
    }
    let text = std::fs::read(path)?;
    let checkpoint: StoredCheckpoint = serde_json::from_slice(&text)?;
    if checksum(&checkpoint.data)? != checkpoint.checksum {
        return Err(invalid(&"the checkpoint is corrupted"));
    }
    contents(checkpoint.data)
}

/// Reads a checkpoint, whatever its checksum.
///
/// # Errors
/// When it is none.
pub fn parse(text: &[u8]) -> io::Result<Contents> {
    let checkpoint: StoredCheckpoint = serde_json::from_slice(text)?;
    contents(checkpoint.data)
}

fn contents(data: StoredData) -> io::Result<Contents> {
    let registered = data.registered_devices.unwrap_or_default();
    let entries = data.pod_device_entries.unwrap_or_default();
    let registered = registered.into_keys().map(valid_resource_name);
    let assignments = entries.into_iter().map(assignment);
    Ok((
        registered.collect::<io::Result<_>>()?,
        assignments.collect::<io::Result<_>>()?,
    ))
}

/// The name, where it is one that could have been registered.
fn valid_resource_name(resource: String) -> io::Result<String> {
    match ResourceName::parse(&resource) {
        Ok(_) => Ok(resource),
        Err(_) => Err(invalid(&format!("{} is no resource", foreign(&resource)))),
    }
}

fn invalid(error: &dyn std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

/// Writes the file anew and puts it in place in one step.
pub(super) fn write(
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
    let beside = dir.join(format!(".{FILE}"));
    std::fs::write(&beside, text)?;
    std::fs::rename(beside, dir.join(FILE))
}

fn entry(assignment: &Assignment) -> StoredEntry {
    let by_node = assignment.devices.iter();
    StoredEntry {
        pod_uid: assignment.pod.clone(),
        container_name: CONTAINER.to_owned(),
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
