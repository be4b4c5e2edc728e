//! Prints the configuration as JSON for `check --json`, with one value per line and in a stable order, to be compared by diff.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;

use crate::config::Config;
use crate::fault::Fault;
use crate::model::allocation::{Allocation, DeviceFile, Mount};
use crate::model::device::Device;
use crate::offer::resource::Resource;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Checked<'a> {
    node: &'a str,
    plugin_dir: String,
    resources: Vec<CheckedResource<'a>>,
    warnings: Vec<&'a String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CheckedResource<'a> {
    name: &'a str,
    socket: &'a str,
    devices: Vec<CheckedDevice<'a>>,
    preferred_allocation: &'static str,
    pre_start: bool,
    /// In seconds.
    removal_grace: f64,
    /// In bytes. The kubelet accepts at most 4 MiB.
    list_size: usize,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    faults: &'a [Fault],
    #[serde(skip_serializing_if = "Option::is_none")]
    one_device_gives: Option<CheckedOutputs>,
}

#[derive(Serialize)]
struct CheckedDevice<'a> {
    id: &'a str,
    index: usize,
    health: &'static str,
    numa: &'a [u16],
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attributes: Option<&'a BTreeMap<String, String>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CheckedOutputs {
    env: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    device_files: Vec<DeviceFile>,
    mounts: Vec<Mount>,
    cdi_devices: Vec<String>,
}

pub fn print(config: &Config, out: &mut impl Write) -> io::Result<()> {
    let resources = config.plugins.resources.iter();
    let checked = Checked {
        node: &config.node,
        plugin_dir: config.plugin_dir.display().to_string(),
        resources: resources
            .map(|resource| checked(resource, config.plugins.faults.of(&resource.name)))
            .collect(),
        warnings: config.all_warnings().collect(),
    };
    writeln!(out, "{}", serde_json::to_string_pretty(&checked)?)
}

fn checked<'a>(resource: &'a Resource, faults: &'a [Fault]) -> CheckedResource<'a> {
    let devices = resource.devices.as_slice();
    CheckedResource {
        name: resource.name.as_str(),
        socket: resource.socket.as_str(),
        devices: devices.iter().map(device).collect(),
        preferred_allocation: resource.preference.as_str(),
        pre_start: resource.pre_start,
        removal_grace: resource.removal_grace.as_secs_f64(),
        list_size: resource.devices.list_size(),
        faults,
        one_device_gives: devices
            .first()
            .map(|first| resource.outputs.of(&[first]).into()),
    }
}

fn device(device: &Device) -> CheckedDevice<'_> {
    let attributes = device.detail.as_ref().map(|detail| &detail.attributes);
    CheckedDevice {
        id: &device.id,
        index: device.index,
        health: device.health.as_str(),
        numa: &device.numa,
        path: device.path(),
        attributes: attributes.filter(|attributes| !attributes.is_empty()),
    }
}

impl From<Allocation> for CheckedOutputs {
    fn from(allocation: Allocation) -> Self {
        Self {
            env: allocation.envs.into_iter().collect(),
            annotations: allocation.annotations.into_iter().collect(),
            device_files: allocation.device_files,
            mounts: allocation.mounts,
            cdi_devices: allocation.cdi_devices,
        }
    }
}
