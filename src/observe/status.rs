//! The status as JSON, which `/status` and the control socket return. The control client deserializes it again.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use enum_map::{EnumArray, EnumMap};
use humantime::format_rfc3339_seconds;
use serde::{Deserialize, Serialize};

use crate::fault::{ArmedFault, Fault, InjectionPoint};
use crate::model::device::{Device, Health};
use crate::node::checkpoint::Holder;
use crate::node::pod_resources::PodContainer;
use crate::observe::{PluginSnapshot, Snapshot};
use crate::offer::Overrides;
use crate::offer::removal::Wait;
use crate::plugin::record::{Cause, RegistrationResult};

/// The status of the daemon. All times are in the RFC 3339 format, in UTC.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub version: String,
    pub namespace: String,
    pub node: String,
    /// The kubelet's device plugin directory.
    pub plugin_dir: String,
    pub started: String,
    /// Whether every resource is ready and the daemon is not stopping, as in `/readyz`.
    pub ready: bool,
    pub stopping: bool,
    /// `None` if `CONFIG_FILE` is not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<ConfigStatus>,
    pub checkpoint: CheckpointStatus,
    /// Where `held` and `heldBy` come from; `None` if neither source is available.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) held_from: Option<HeldFrom>,
    /// In the order of the configuration.
    pub resources: Vec<ResourceStatus>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigStatus {
    pub file: String,
    /// Reloads that changed the configuration.
    pub changed: u64,
    /// Reloads that changed nothing.
    pub unchanged: u64,
    /// Reloads that were refused because the file had errors.
    pub refused: u64,
    /// The errors in the file now. While there are some, the previous configuration stays in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errors: Option<ErrorStatus>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckpointStatus {
    /// When the kubelet last wrote it; `None` if it cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) as_of: Option<String>,
    /// Why it cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A source of the devices that pods hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum HeldFrom {
    /// The kubelet's pod-resources API, which lists running pods.
    PodResources,
    /// The kubelet's checkpoint, which is as old as its last write.
    Checkpoint,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct ErrorStatus {
    pub what: String,
    /// When the error happened; for errors in the config file, since when the file has had errors.
    pub at: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResourceStatus {
    pub name: String,
    /// The file name of its socket.
    pub endpoint: String,
    /// A step of the plugin's run, such as `registered`, or `waiting` if the last attempt failed.
    pub state: String,
    /// When the resource entered this state.
    pub since: String,
    /// Whether pods can get its devices.
    pub ready: bool,
    /// Why the resource is not ready; `None` if it is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) waits_for: Option<String>,
    /// Registration attempts by result.
    pub registrations: BTreeMap<String, u64>,
    /// Restarts of the plugin by cause.
    pub restarts: BTreeMap<String, u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_error: Option<ErrorStatus>,
    /// Values set at run time that override the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overrides: Option<OverridesStatus>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<FaultStatus>,
    /// Injections by kind of fault, including those of faults that were cleared since.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub faults_injected: BTreeMap<String, u64>,
    /// Devices that are advertised as Healthy.
    pub healthy: usize,
    /// Devices that are advertised as Unhealthy, including those pending removal.
    pub unhealthy: usize,
    /// Devices that are removed once no pod can hold them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) pending_removal: usize,
    /// Devices that pods hold; `null` if unknown.
    pub held: Option<usize>,
    /// `None` if the request does not ask for devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<Vec<DeviceStatus>>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OverridesStatus {
    /// The number of devices; `None` if it is not overridden.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<usize>,
    /// How many devices have an overridden health.
    pub health: usize,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FaultStatus {
    /// The fault as it was set. If it has a probability, it has a seed, which may be random.
    pub fault: Fault,
    /// Whether the fault was set at run time rather than by the configuration.
    pub(crate) set_at_run_time: bool,
    /// Whether the fault has reached its `times` limit.
    pub exhausted: bool,
    /// How many calls, streams, registrations or phases the fault was evaluated for.
    pub seen: u64,
    /// How many of these it was injected into.
    pub injected: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceStatus {
    pub id: String,
    /// The health that is advertised to the kubelet.
    pub health: Health,
    /// Empty if the device has no topology.
    pub numa: Vec<u16>,
    /// Whether the health was set at run time.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub health_overridden: bool,
    /// Whether a fault makes the device Unhealthy.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fault_unhealthy: bool,
    /// Whether the device is pending removal.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub removing: bool,
    /// What delays the removal of the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) waits_for: Option<String>,
    /// The containers that hold the device.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) held_by: Vec<HolderStatus>,
}

/// A container that holds a device.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum HolderStatus {
    /// From the pod-resources API.
    Live(PodContainer),
    /// From the checkpoint.
    Checkpointed(Holder),
}

/// Which resources and devices a status contains.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum WithDevices {
    /// All resources, without devices.
    None,
    /// All resources, with their devices.
    All,
    /// Only this resource, with its devices.
    Of(String),
}

impl Status {
    pub fn of(snapshot: &Snapshot, with_devices: &WithDevices) -> Self {
        let program = &snapshot.program;
        let is_included = |plugin: &&PluginSnapshot| match with_devices {
            WithDevices::Of(name) => plugin.name() == *name,
            WithDevices::None | WithDevices::All => true,
        };
        let resources = snapshot.plugins.iter().filter(is_included);
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            namespace: program.namespace.clone(),
            node: program.node.clone(),
            plugin_dir: program.plugin_dir.display().to_string(),
            started: time(program.started),
            ready: snapshot.is_ready(),
            stopping: snapshot.stopping,
            config: config(snapshot),
            checkpoint: CheckpointStatus {
                as_of: snapshot
                    .checkpoint
                    .as_ref()
                    .ok()
                    .map(|written| time(written.modified)),
                error: snapshot.checkpoint.as_ref().err().map(ToString::to_string),
            },
            held_from: held_from(snapshot),
            resources: resources
                .map(|plugin| resource(snapshot, plugin, *with_devices != WithDevices::None))
                .collect(),
        }
    }
}

fn held_from(snapshot: &Snapshot) -> Option<HeldFrom> {
    match (&snapshot.pod_devices, &snapshot.checkpoint) {
        (Some(_), _) => Some(HeldFrom::PodResources),
        (None, Ok(_)) => Some(HeldFrom::Checkpoint),
        (None, Err(_)) => None,
    }
}

fn config(snapshot: &Snapshot) -> Option<ConfigStatus> {
    let file = snapshot.program.config_file.as_ref()?;
    let reloads = &snapshot.reloads;
    Some(ConfigStatus {
        file: file.display().to_string(),
        changed: reloads.changed,
        unchanged: reloads.unchanged,
        refused: reloads.refused,
        errors: reloads.errors.as_ref().map(|(what, since)| ErrorStatus {
            what: what.clone(),
            at: time(*since),
        }),
    })
}

fn resource(snapshot: &Snapshot, plugin: &PluginSnapshot, with_devices: bool) -> ResourceStatus {
    let (offer, record) = (&plugin.offer, &plugin.record);
    let devices = offer.devices().as_slice();
    let (healthy, unhealthy) = plugin.count_by_health();
    let waits_for = snapshot.waits_for(plugin);
    ResourceStatus {
        name: plugin.name().to_owned(),
        endpoint: offer.resource().socket.to_string(),
        state: record.state().to_owned(),
        since: time(record.since),
        ready: snapshot.is_plugin_ready(plugin),
        waits_for,
        registrations: counts(record.registrations, RegistrationResult::as_str),
        restarts: counts(record.restarts, Cause::as_str),
        last_error: record.last_error.as_ref().map(|error| ErrorStatus {
            what: error.what.clone(),
            at: time(error.at),
        }),
        overrides: overrides(offer.overrides()),
        faults: plugin.faults.armed().iter().map(fault).collect(),
        faults_injected: counts(record.faults, InjectionPoint::as_str),
        healthy,
        unhealthy,
        pending_removal: offer.removing().count(),
        held: snapshot.held(plugin),
        devices: with_devices.then(|| {
            devices
                .iter()
                .map(|d| device(d, snapshot, plugin))
                .collect()
        }),
    }
}

fn overrides(overrides: &Overrides) -> Option<OverridesStatus> {
    let status = OverridesStatus {
        devices: overrides.count,
        health: overrides.health.len(),
    };
    (*overrides != Overrides::default()).then_some(status)
}

fn fault(armed: &ArmedFault) -> FaultStatus {
    FaultStatus {
        fault: armed.fault.clone(),
        set_at_run_time: armed.set_at_run_time,
        exhausted: armed.is_exhausted(),
        seen: armed.seen,
        injected: armed.injected,
    }
}

fn device(device: &Device, snapshot: &Snapshot, plugin: &PluginSnapshot) -> DeviceStatus {
    let offer = &plugin.offer;
    DeviceStatus {
        id: device.id.to_string(),
        health: device.advertised_health(),
        numa: device.numa.to_vec(),
        health_overridden: offer.overrides().health.contains_key(&device.id),
        fault_unhealthy: offer.fault_unhealthy().contains(&device.id),
        removing: device.removing,
        waits_for: plugin.waits.get(&device.id).map(Wait::to_string),
        held_by: held_by(&device.id, snapshot, plugin),
    }
}

fn held_by(id: &str, snapshot: &Snapshot, plugin: &PluginSnapshot) -> Vec<HolderStatus> {
    if let Some(held) = &snapshot.pod_devices {
        let holders = held.holders(plugin.name(), id).iter().cloned();
        return holders.map(HolderStatus::Live).collect();
    }
    let held = snapshot.known(plugin).and_then(|known| known.held.get(id));
    let holders = held.into_iter().flat_map(|held| held.holders.clone());
    holders.map(HolderStatus::Checkpointed).collect()
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that serde requires"
)]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// The counts above zero, by name.
fn counts<K: EnumArray<u64>>(
    counts: EnumMap<K, u64>,
    as_str: impl Fn(K) -> &'static str,
) -> BTreeMap<String, u64> {
    let nonzero = counts.into_iter().filter(|(_, count)| *count > 0);
    nonzero
        .map(|(key, count)| (as_str(key).to_owned(), count))
        .collect()
}

/// Formats a time. A file's time can be out of the range of RFC 3339, whose years have four digits, so it is clamped.
fn time(time: SystemTime) -> String {
    let last = UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    format_rfc3339_seconds(time.clamp(UNIX_EPOCH, last)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_outside_of_the_rfc_3339_range_are_clamped() {
        let far = Duration::from_secs(1 << 60);
        let known = UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        assert_eq!(time(known), "2001-09-09T01:46:40Z");
        assert_eq!(time(UNIX_EPOCH + far), "9999-12-31T23:59:59Z");
        assert_eq!(
            time(UNIX_EPOCH - Duration::from_secs(9)),
            "1970-01-01T00:00:00Z"
        );
    }
}
