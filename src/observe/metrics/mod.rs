//! The metrics as text. Label values are resource names and fixed strings, never text from others.

mod encoder;
mod format;

pub(crate) use format::Format;

use std::fmt::Error;
use std::time::UNIX_EPOCH;

use enum_map::{EnumArray, EnumMap};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, text};
use prometheus_client::registry::Registry;

use self::encoder::{Encoder, Samples};
use crate::api::grpc_code::CODES;
use crate::model::device::Health;
use crate::node::checkpoint_file::CheckpointError;
use crate::observe::{PluginSnapshot, Snapshot};
use crate::plugin::record::{Cause, RegistrationResult};

const PREFIX: &str = "simple_device_plugin";

/// The codes that Allocate returns without faults. Their series exist from the start, with value 0.
const USUAL_CODES: [&str; 3] = ["OK", "NotFound", "FailedPrecondition"];

pub(crate) fn render(snapshot: Snapshot, format: Format) -> String {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(SnapshotCollector { snapshot, format }));
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = match format {
        Format::OpenMetrics => text::encode(&mut text, &registry),
        // Without the last line of OpenMetrics, `# EOF`.
        Format::Text => text::encode_registry(&mut text, &registry),
    };
    text
}

#[derive(Debug)]
struct SnapshotCollector {
    snapshot: Snapshot,
    format: Format,
}

impl Collector for SnapshotCollector {
    fn encode(&self, encoder: DescriptorEncoder) -> Result<(), Error> {
        let format = self.format;
        let mut encoder = Encoder { encoder, format };
        encode_devices(&self.snapshot, &mut encoder)?;
        encode_life_cycle(&self.snapshot, &mut encoder)?;
        encode_allocate(&self.snapshot, &mut encoder)?;
        encode_faults(&self.snapshot, &mut encoder)?;
        encode_reloads(&self.snapshot, &mut encoder)?;
        encode_checkpoint(&self.snapshot, &mut encoder)?;
        encode_build(&mut encoder)
    }
}

fn encode_devices(snapshot: &Snapshot, encoder: &mut Encoder) -> Result<(), Error> {
    let help = "Number of devices that are advertised to the kubelet, by health.";
    let mut devices = encoder.gauge("devices", help)?;
    for plugin in &snapshot.plugins {
        let (healthy, unhealthy) = plugin.count_by_health();
        for (health, count) in [(Health::Healthy, healthy), (Health::Unhealthy, unhealthy)] {
            let labels = [("resource", plugin.name()), ("health", health.as_str())];
            devices.labeled(&labels, count as u64)?;
        }
    }
    let help = "Number of devices that pods hold. Absent while it is not known.";
    let mut held = encoder.gauge("held_devices", help)?;
    for plugin in &snapshot.plugins {
        // No sample is better than a wrong one.
        if let Some(count) = snapshot.held(plugin) {
            held.labeled(&[("resource", plugin.name())], count as u64)?;
        }
    }
    Ok(())
}

fn encode_life_cycle(snapshot: &Snapshot, encoder: &mut Encoder) -> Result<(), Error> {
    let help = "Whether the resource is ready (1 is yes, 0 is no): the kubelet can give its devices to pods.";
    let mut ready = encoder.gauge("ready", help)?;
    for plugin in &snapshot.plugins {
        let is_ready = snapshot.is_plugin_ready(plugin);
        ready.labeled(&[("resource", plugin.name())], u64::from(is_ready))?;
    }
    let help = "Total number of registration attempts, by result.";
    let mut registrations = encoder.counter("registrations_total", help)?;
    let as_str = RegistrationResult::as_str;
    encode_counts(snapshot, &mut registrations, "result", as_str, |plugin| {
        &plugin.record.registrations
    })?;
    let help = "Total number of plugin restarts, by cause.";
    let mut restarts = encoder.counter("restarts_total", help)?;
    encode_counts(snapshot, &mut restarts, "cause", Cause::as_str, |plugin| {
        &plugin.record.restarts
    })
}

fn encode_allocate(snapshot: &Snapshot, encoder: &mut Encoder) -> Result<(), Error> {
    let help = "Total number of answered Allocate calls, by gRPC status code.";
    let mut requests = encoder.counter("allocate_requests_total", help)?;
    for plugin in &snapshot.plugins {
        for (code, count) in std::iter::zip(CODES, plugin.record.allocates) {
            if count > 0 || USUAL_CODES.contains(&code) {
                requests.labeled(&[("resource", plugin.name()), ("code", code)], count)?;
            }
        }
    }
    let help = "Duration of Allocate calls in seconds, including injected delays.";
    let mut durations = encoder.histogram("allocate_duration_seconds", help)?;
    for plugin in &snapshot.plugins {
        durations.durations(plugin.name(), &plugin.record.allocate_durations)?;
    }
    let help = "Total number of devices in successful answers to Allocate calls.";
    let mut devices = encoder.counter("allocated_devices_total", help)?;
    for plugin in &snapshot.plugins {
        let count = plugin.record.allocated_devices;
        devices.labeled(&[("resource", plugin.name())], count)?;
    }
    Ok(())
}

/// A kind has series from the first time that a fault of that kind is set.
fn encode_faults(snapshot: &Snapshot, encoder: &mut Encoder) -> Result<(), Error> {
    let help = "Total number of injected faults, by kind.";
    let mut injected = encoder.counter("faults_injected_total", help)?;
    for plugin in &snapshot.plugins {
        for (point, _) in plugin.faults.active() {
            let labels = [("resource", plugin.name()), ("fault", point.as_str())];
            injected.labeled(&labels, plugin.record.faults[point])?;
        }
    }
    let help = "Number of faults that are set and not exhausted, by kind.";
    let mut active = encoder.gauge("faults_active", help)?;
    for plugin in &snapshot.plugins {
        for (point, count) in plugin.faults.active() {
            let labels = [("resource", plugin.name()), ("fault", point.as_str())];
            active.labeled(&labels, count as u64)?;
        }
    }
    Ok(())
}

fn encode_reloads(snapshot: &Snapshot, encoder: &mut Encoder) -> Result<(), Error> {
    let reloads = &snapshot.reloads;
    let help = "Total number of times that the config file was read after the start, by result.";
    let mut total = encoder.counter("config_reloads_total", help)?;
    for (result, count) in [
        ("changed", reloads.changed),
        ("unchanged", reloads.unchanged),
        ("refused", reloads.refused),
    ] {
        total.labeled(&[("result", result)], count)?;
    }
    // Without a config file, there is nothing to alert on.
    let has_file = snapshot.program.config_file.is_some();
    let help = "Whether the last read of the config file was successful (1 is yes, 0 is no). Absent without a config file.";
    let mut successful = encoder.gauge("config_last_reload_successful", help)?;
    if has_file {
        successful.value(u64::from(reloads.errors.is_none()))?;
    }
    let help =
        "Timestamp of the last successful read of the config file. Absent without a config file.";
    let mut success = encoder.gauge("config_last_reload_success_timestamp_seconds", help)?;
    if has_file {
        let at = reloads.last_success.unwrap_or(snapshot.program.started);
        success.value(at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())?;
    }
    Ok(())
}

fn encode_checkpoint(snapshot: &Snapshot, encoder: &mut Encoder) -> Result<(), Error> {
    let help = "Whether the kubelet's checkpoint can be read (1 is yes, 0 is no). Absent before the kubelet has written it.";
    let mut readable = encoder.gauge("kubelet_checkpoint_readable", help)?;
    match &snapshot.checkpoint {
        Ok(_) => readable.value(1),
        // On a node without plugins, the kubelet writes no checkpoint. An alert on 0 must not fire there.
        Err(CheckpointError::Missing) => Ok(()),
        Err(_) => readable.value(0),
    }
}

fn encode_build(encoder: &mut Encoder) -> Result<(), Error> {
    let help =
        "A metric with a constant value of 1, labeled by the version of simple-device-plugin.";
    let mut build = encoder.gauge("build_info", help)?;
    build.labeled(&[("version", env!("CARGO_PKG_VERSION"))], 1)
}

/// Writes a sample for each plugin and key. The key is the value of `label`.
fn encode_counts<K: EnumArray<u64>>(
    snapshot: &Snapshot,
    samples: &mut Samples,
    label: &'static str,
    as_str: impl Fn(K) -> &'static str,
    counts: impl Fn(&PluginSnapshot) -> &EnumMap<K, u64>,
) -> Result<(), Error> {
    for plugin in &snapshot.plugins {
        for (key, count) in counts(plugin) {
            samples.labeled(&[("resource", plugin.name()), (label, as_str(key))], *count)?;
        }
    }
    Ok(())
}
