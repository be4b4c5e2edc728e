//! The metrics, as OpenMetrics text. Label values are resource names and fixed strings, never text from others.

use std::fmt::Error;

use enum_map::{EnumArray, EnumMap};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use crate::api::grpc_code::CODES;
use crate::model::device::Health;
use crate::observe::{PluginSnapshot, Snapshot};
use crate::plugin::record::{Cause, Durations, RegistrationResult};

/// The media type of the output of [`text()`].
pub(crate) const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const PREFIX: &str = "simple_device_plugin";

/// The codes that Allocate returns without faults. Their series exist from the start, with value 0.
const USUAL_CODES: [&str; 3] = ["OK", "NotFound", "FailedPrecondition"];

pub fn text(snapshot: Snapshot) -> String {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(SnapshotCollector(snapshot)));
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = text::encode(&mut text, &registry);
    text
}

#[derive(Debug)]
struct SnapshotCollector(Snapshot);

impl Collector for SnapshotCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), Error> {
        encode_devices(&self.0, &mut encoder)?;
        encode_life_cycle(&self.0, &mut encoder)?;
        encode_allocate(&self.0, &mut encoder)?;
        encode_faults(&self.0, &mut encoder)?;
        encode_daemon(&self.0, &mut encoder)
    }
}

type Labels<'a, const N: usize> = [(&'static str, &'a str); N];

fn encode_devices(snapshot: &Snapshot, encoder: &mut DescriptorEncoder) -> Result<(), Error> {
    let mut devices = metric(
        encoder,
        "devices",
        "Devices advertised to the kubelet, by health.",
        MetricType::Gauge,
    )?;
    for plugin in &snapshot.plugins {
        let (healthy, unhealthy) = plugin.count_by_health();
        for (health, count) in [(Health::Healthy, healthy), (Health::Unhealthy, unhealthy)] {
            let labels = [("resource", plugin.name()), ("health", health.as_str())];
            gauge(&mut devices, &labels, count as u64)?;
        }
    }
    let help = "Devices held by pods, according to the kubelet's checkpoint.";
    let mut held = metric(encoder, "held_devices", help, MetricType::Gauge)?;
    for plugin in &snapshot.plugins {
        // Without the checkpoint the number is unknown: no sample is better than a wrong one.
        if let Some(count) = snapshot.held(plugin) {
            gauge(&mut held, &[("resource", plugin.name())], count as u64)?;
        }
    }
    Ok(())
}

fn encode_life_cycle(snapshot: &Snapshot, encoder: &mut DescriptorEncoder) -> Result<(), Error> {
    let help = "Whether the kubelet has the resource and can give its devices to pods: 1 if so, otherwise 0.";
    let mut ready = metric(encoder, "ready", help, MetricType::Gauge)?;
    for plugin in &snapshot.plugins {
        let is_ready = snapshot.is_plugin_ready(plugin);
        gauge(
            &mut ready,
            &[("resource", plugin.name())],
            u64::from(is_ready),
        )?;
    }
    let help = "Registration attempts, by result.";
    encode_counters(
        snapshot,
        encoder,
        "registrations",
        help,
        "result",
        RegistrationResult::as_str,
        |plugin| &plugin.record.registrations,
    )?;
    let help = "Plugin restarts, by cause.";
    encode_counters(
        snapshot,
        encoder,
        "restarts",
        help,
        "cause",
        Cause::as_str,
        |plugin| &plugin.record.restarts,
    )
}

fn encode_allocate(snapshot: &Snapshot, encoder: &mut DescriptorEncoder) -> Result<(), Error> {
    let help = "Allocate calls, by gRPC status code of the response.";
    let mut requests = metric(encoder, "allocate_requests", help, MetricType::Counter)?;
    for plugin in &snapshot.plugins {
        for (code, count) in std::iter::zip(CODES, plugin.record.allocates) {
            if count > 0 || USUAL_CODES.contains(&code) {
                let labels = [("resource", plugin.name()), ("code", code)];
                counter(&mut requests, &labels, count)?;
            }
        }
    }
    let help = "Duration of Allocate calls in seconds.";
    let mut seconds = encoder.encode_descriptor(
        "allocate",
        help,
        Some(&Unit::Seconds),
        MetricType::Histogram,
    )?;
    for plugin in &snapshot.plugins {
        histogram(&mut seconds, plugin.name(), &plugin.record.allocate_seconds)?;
    }
    let help = "Devices in successful Allocate responses.";
    let mut devices = metric(encoder, "allocated_devices", help, MetricType::Counter)?;
    for plugin in &snapshot.plugins {
        counter(
            &mut devices,
            &[("resource", plugin.name())],
            plugin.record.allocated_devices,
        )?;
    }
    Ok(())
}

/// A kind has a series if it was injected, or if a fault of that kind is set.
fn encode_faults(snapshot: &Snapshot, encoder: &mut DescriptorEncoder) -> Result<(), Error> {
    let help = "Injected faults, by kind.";
    let mut injected = metric(encoder, "faults_injected", help, MetricType::Counter)?;
    for plugin in &snapshot.plugins {
        for (point, count) in plugin.record.faults {
            if count > 0 || plugin.faults.has_fault_on(point) {
                let labels = [("resource", plugin.name()), ("fault", point.as_str())];
                counter(&mut injected, &labels, count)?;
            }
        }
    }
    Ok(())
}

fn encode_daemon(snapshot: &Snapshot, encoder: &mut DescriptorEncoder) -> Result<(), Error> {
    let help = "Config file reloads, by result.";
    let mut reloads = metric(encoder, "config_reloads", help, MetricType::Counter)?;
    let counts = &snapshot.reloads;
    for (result, count) in [
        ("changed", counts.changed),
        ("unchanged", counts.unchanged),
        ("refused", counts.refused),
    ] {
        counter(&mut reloads, &[("result", result)], count)?;
    }
    let mut build = metric(
        encoder,
        "build_info",
        "Version of simple-device-plugin; the value is always 1.",
        MetricType::Gauge,
    )?;
    gauge(&mut build, &[("version", env!("CARGO_PKG_VERSION"))], 1)
}

fn metric<'a>(
    encoder: &'a mut DescriptorEncoder,
    name: &'a str,
    help: &str,
    metric_type: MetricType,
) -> Result<MetricEncoder<'a>, Error> {
    encoder.encode_descriptor(name, help, None, metric_type)
}

/// Encodes a counter for each plugin and key. The key is the value of `label`.
fn encode_counters<K: EnumArray<u64>>(
    snapshot: &Snapshot,
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    label: &'static str,
    as_str: impl Fn(K) -> &'static str,
    counts: impl Fn(&PluginSnapshot) -> &EnumMap<K, u64>,
) -> Result<(), Error> {
    let mut metric = metric(encoder, name, help, MetricType::Counter)?;
    for plugin in &snapshot.plugins {
        for (key, count) in counts(plugin) {
            let labels = [("resource", plugin.name()), (label, as_str(key))];
            counter(&mut metric, &labels, *count)?;
        }
    }
    Ok(())
}

fn gauge<const N: usize>(
    metric: &mut MetricEncoder,
    labels: &Labels<N>,
    value: u64,
) -> Result<(), Error> {
    metric.encode_family(labels)?.encode_gauge(&value)
}

fn counter<const N: usize>(
    metric: &mut MetricEncoder,
    labels: &Labels<N>,
    value: u64,
) -> Result<(), Error> {
    let mut metric = metric.encode_family(labels)?;
    metric.encode_counter::<NoLabelSet, u64, u64>(&value, None)
}

fn histogram(
    metric: &mut MetricEncoder,
    resource: &str,
    durations: &Durations,
) -> Result<(), Error> {
    let bounds = Durations::BOUNDS.into_iter().chain([f64::INFINITY]);
    let buckets: Vec<(f64, u64)> = std::iter::zip(bounds, durations.counts).collect();
    let count = durations.counts.iter().sum();
    metric
        .encode_family(&[("resource", resource)])?
        .encode_histogram::<NoLabelSet>(durations.sum, count, &buckets, None)
}
