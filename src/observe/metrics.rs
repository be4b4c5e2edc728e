//! What was seen, as metrics for Prometheus (OpenMetrics text). Labels are our own resources and words of ours.

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

/// The media type of what [`text()`] makes.
pub(crate) const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const PREFIX: &str = "simple_device_plugin";

/// Codes that are reported from the start, even at 0: what Allocate answers without faults.
const USUAL_CODES: [&str; 3] = ["OK", "NotFound", "FailedPrecondition"];

pub fn text(snapshot: Snapshot) -> String {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(Collected(snapshot)));
    let mut text = String::new();
    // Cannot fail: a String takes all.
    let _ = text::encode(&mut text, &registry);
    text
}

#[derive(Debug)]
struct Collected(Snapshot);

impl Collector for Collected {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), Error> {
        of_devices(&self.0, &mut encoder)?;
        of_lives(&self.0, &mut encoder)?;
        of_allocate(&self.0, &mut encoder)?;
        of_faults(&self.0, &mut encoder)?;
        of_program(&self.0, &mut encoder)
    }
}

type Labels<'a, const N: usize> = [(&'static str, &'a str); N];

fn of_devices(snapshot: &Snapshot, encoder: &mut DescriptorEncoder) -> Result<(), Error> {
    let mut devices = metric(
        encoder,
        "devices",
        "Devices as reported to the kubelet",
        MetricType::Gauge,
    )?;
    for plugin in &snapshot.plugins {
        let (healthy, unhealthy) = plugin.healthy_and_not();
        for (health, count) in [(Health::Healthy, healthy), (Health::Unhealthy, unhealthy)] {
            let labels = [("resource", plugin.name()), ("health", health.as_str())];
            gauge(&mut devices, &labels, count as u64)?;
        }
    }
    let help = "Devices that pods hold, as of the last write of the kubelet's checkpoint";
    let mut held = metric(encoder, "held_devices", help, MetricType::Gauge)?;
    for plugin in &snapshot.plugins {
        // Where the checkpoint cannot be read, nothing is better than a wrong number.
        if let Some(count) = snapshot.held(plugin) {
            gauge(&mut held, &[("resource", plugin.name())], count as u64)?;
        }
    }
    Ok(())
}

fn of_lives(snapshot: &Snapshot, encoder: &mut DescriptorEncoder) -> Result<(), Error> {
    let help =
        "Whether the resource is registered, its stream open, and the kubelet's checkpoint has it";
    let mut ready = metric(encoder, "ready", help, MetricType::Gauge)?;
    for plugin in &snapshot.plugins {
        let is_ready = snapshot.has_ready(plugin);
        gauge(
            &mut ready,
            &[("resource", plugin.name())],
            u64::from(is_ready),
        )?;
    }
    let help = "Registrations, by how they went";
    by(
        snapshot,
        encoder,
        "registrations",
        help,
        "result",
        RegistrationResult::as_str,
        |plugin| &plugin.record.registrations,
    )?;
    let help = "New starts of a plugin, by why";
    by(
        snapshot,
        encoder,
        "restarts",
        help,
        "cause",
        Cause::as_str,
        |plugin| &plugin.record.restarts,
    )
}

fn of_allocate(snapshot: &Snapshot, encoder: &mut DescriptorEncoder) -> Result<(), Error> {
    let help = "Calls of Allocate, by the gRPC code of the answer";
    let mut requests = metric(encoder, "allocate_requests", help, MetricType::Counter)?;
    for plugin in &snapshot.plugins {
        for (code, count) in std::iter::zip(CODES, plugin.record.allocates) {
            if count > 0 || USUAL_CODES.contains(&code) {
                let labels = [("resource", plugin.name()), ("code", code)];
                counter(&mut requests, &labels, count)?;
            }
        }
    }
    let help = "How long calls of Allocate took";
    let mut seconds = encoder.encode_descriptor(
        "allocate",
        help,
        Some(&Unit::Seconds),
        MetricType::Histogram,
    )?;
    for plugin in &snapshot.plugins {
        histogram(&mut seconds, plugin.name(), &plugin.record.allocate_seconds)?;
    }
    let help = "Devices in answers of Allocate";
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

/// Faults that were injected, and those that can be.
fn of_faults(snapshot: &Snapshot, encoder: &mut DescriptorEncoder) -> Result<(), Error> {
    let help = "Faults that were injected, by kind";
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

fn of_program(snapshot: &Snapshot, encoder: &mut DescriptorEncoder) -> Result<(), Error> {
    let help = "Times that the config file was read again, by how that went";
    let mut reloads = metric(encoder, "config_reloads", help, MetricType::Counter)?;
    let counts = &snapshot.reloads;
    for (result, count) in [
        ("changed", counts.changed),
        ("unchanged", counts.unchanged),
        ("refused", counts.refused),
    ] {
        counter(&mut reloads, &[("result", result)], count)?;
    }
    let mut build = metric(encoder, "build_info", "The program", MetricType::Gauge)?;
    gauge(&mut build, &[("version", env!("CARGO_PKG_VERSION"))], 1)
}

fn metric<'a>(
    encoder: &'a mut DescriptorEncoder,
    name: &'a str,
    help: &str,
    of: MetricType,
) -> Result<MetricEncoder<'a>, Error> {
    encoder.encode_descriptor(name, help, None, of)
}

/// A counter of each plugin for each key, which is the value of the label.
fn by<K: EnumArray<u64>>(
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

fn histogram(metric: &mut MetricEncoder, resource: &str, took: &Durations) -> Result<(), Error> {
    let bounds = Durations::BOUNDS.into_iter().chain([f64::INFINITY]);
    let buckets: Vec<(f64, u64)> = std::iter::zip(bounds, took.counts).collect();
    let count = took.counts.iter().sum();
    metric
        .encode_family(&[("resource", resource)])?
        .encode_histogram::<NoLabelSet>(took.sum, count, &buckets, None)
}
