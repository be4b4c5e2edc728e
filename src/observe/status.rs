//! What was seen, for people and programs: the JSON of `/status` and of the control socket, whose client
//! reads it again.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use enum_map::{EnumArray, EnumMap};
use humantime::format_rfc3339_seconds;
use serde::{Deserialize, Serialize};

use crate::fault::{ArmedFault, Fault, InjectionPoint};
use crate::model::device::Device;
use crate::node::checkpoint::{Holder, Known};
use crate::observe::{PluginSnapshot, Snapshot};
use crate::offer::Overrides;
use crate::offer::removal::Wait;
use crate::plugin::record::{Cause, RegistrationResult};

/// The whole program. Times are of RFC 3339, in UTC.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub version: String,
    /// The namespace it runs in.
    pub namespace: String,
    pub node: String,
    /// The kubelet's device plugin directory.
    pub plugin_dir: String,
    pub started: String,
    /// Whether every resource is ready, and it does not stop.
    pub ready: bool,
    pub stopping: bool,
    /// The config file, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<ConfigStatus>,
    /// The kubelet's checkpoint, of which it is known who holds what.
    pub checkpoint: CheckpointStatus,
    /// The resources in their order.
    pub resources: Vec<ResourceStatus>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigStatus {
    pub file: String,
    /// How often it was read again and said something else.
    pub changed: u64,
    /// How often it said the same.
    pub unchanged: u64,
    /// How often it had errors.
    pub refused: u64,
    /// What is wrong with it now: what was configured before goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errors: Option<ErrorStatus>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckpointStatus {
    /// When the kubelet wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) as_of: Option<String>,
    /// Why it cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct ErrorStatus {
    pub what: String,
    /// When; of what goes on, since when.
    pub at: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResourceStatus {
    pub name: String,
    /// The file name of its socket.
    pub endpoint: String,
    /// Where its plugin stands, in one word.
    pub state: String,
    pub since: String,
    /// Whether pods can have its devices.
    pub ready: bool,
    /// What it waits for until it is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) waits_for: Option<String>,
    /// Registrations by how they went.
    pub registrations: BTreeMap<String, u64>,
    /// New starts by why.
    pub restarts: BTreeMap<String, u64>,
    /// What went wrong last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_error: Option<ErrorStatus>,
    /// What was set at run time and overrides the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overrides: Option<OverridesStatus>,
    /// What goes wrong with it on purpose.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<FaultStatus>,
    /// How often that happened, by kind; also of faults that were cleared.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub faults_injected: BTreeMap<String, u64>,
    /// Devices that pods can have.
    pub healthy: usize,
    /// Those that they cannot.
    pub unhealthy: usize,
    /// Devices among the unhealthy ones that are dropped as soon as nobody can have them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) pending_removal: usize,
    /// Devices that pods hold; `null` where it is not known.
    pub held: Option<usize>,
    /// The devices, where asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<Vec<DeviceStatus>>,
}

/// What overrides the configuration.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OverridesStatus {
    /// The number of devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<usize>,
    /// Of how many devices the health.
    pub health: usize,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FaultStatus {
    /// As it was asked for, with its seed.
    pub fault: Fault,
    /// Whether it was set at run time, not by the configuration.
    pub(crate) set_at_run_time: bool,
    /// Whether it has been injected as often as it may be.
    pub exhausted: bool,
    /// How many calls, streams, registrations or phases it was evaluated for.
    pub seen: u64,
    /// How often it was injected.
    pub injected: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceStatus {
    pub id: String,
    /// Its health as reported to the kubelet.
    pub health: String,
    /// Its NUMA nodes; none: no topology.
    pub numa: Vec<u16>,
    /// Whether its health was set at run time.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub health_overridden: bool,
    /// Whether a fault makes it Unhealthy.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fault_unhealthy: bool,
    /// Whether it is being removed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub removing: bool,
    /// What it waits for until it is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) waits_for: Option<String>,
    /// The containers that hold it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) held_by: Vec<Holder>,
}

/// Whose devices are wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum WithDevices {
    None,
    All,
    /// This resource's, and nothing of others.
    Of(String),
}

impl Status {
    pub fn of(snapshot: &Snapshot, wanted: &WithDevices) -> Self {
        let program = &snapshot.program;
        let is_wanted = |plugin: &&PluginSnapshot| match wanted {
            WithDevices::Of(name) => plugin.name() == *name,
            WithDevices::None | WithDevices::All => true,
        };
        let resources = snapshot.plugins.iter().filter(is_wanted);
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
                    .map(|written| time(written.at)),
                error: snapshot.checkpoint.as_ref().err().cloned(),
            },
            resources: resources
                .map(|plugin| resource(snapshot, plugin, *wanted != WithDevices::None))
                .collect(),
        }
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
    let (healthy, unhealthy) = plugin.healthy_and_not();
    let known = snapshot.known(plugin);
    let waits_for = snapshot.waits_for(plugin);
    ResourceStatus {
        name: plugin.name().to_owned(),
        endpoint: offer.resource().socket.to_string(),
        state: record.state().to_owned(),
        since: time(record.since),
        ready: snapshot.has_ready(plugin),
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
        devices: with_devices.then(|| devices.iter().map(|d| device(d, plugin, known)).collect()),
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

fn device(device: &Device, plugin: &PluginSnapshot, known: Option<&Known>) -> DeviceStatus {
    let offer = &plugin.offer;
    let held = known.and_then(|known| known.held.get(&device.id));
    DeviceStatus {
        id: device.id.to_string(),
        health: device.advertised_health().as_str().to_owned(),
        numa: device.numa.to_vec(),
        health_overridden: offer.overrides().health.contains_key(&device.id),
        fault_unhealthy: offer.fault_unhealthy().contains(&device.id),
        removing: device.removing,
        waits_for: plugin.waits.get(&device.id).map(Wait::to_string),
        held_by: held.map(|held| held.by.clone()).unwrap_or_default(),
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// Those that happened, by name.
fn counts<K: EnumArray<u64>>(
    counts: EnumMap<K, u64>,
    as_str: impl Fn(K) -> &'static str,
) -> BTreeMap<String, u64> {
    let happened = counts.into_iter().filter(|(_, count)| *count > 0);
    happened
        .map(|(key, count)| (as_str(key).to_owned(), count))
        .collect()
}

/// A file can have any time; RFC 3339 has four digits for a year.
fn time(time: SystemTime) -> String {
    let last = UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    format_rfc3339_seconds(time.clamp(UNIX_EPOCH, last)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_time_of_a_file_can_be_told() {
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
