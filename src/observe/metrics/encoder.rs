//! Writes metrics in either format. The library writes OpenMetrics. Its samples are the same as those of the text format,
//! but the lines before the samples differ.

use std::fmt::Error;

use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use super::format::Format;
use crate::plugin::record::Durations;

pub(super) struct Encoder<'a> {
    pub encoder: DescriptorEncoder<'a>,
    pub format: Format,
}

/// The samples of one metric.
pub(super) struct Samples<'a> {
    encoder: MetricEncoder<'a>,
    /// Whether the library adds the suffix `_total` to the name of each sample.
    adds_total: bool,
}

impl Encoder<'_> {
    pub fn gauge<'a>(&'a mut self, name: &'a str, help: &str) -> Result<Samples<'a>, Error> {
        self.metric(name, help, MetricType::Gauge)
    }

    /// The name ends in `_total`.
    pub fn counter<'a>(&'a mut self, name: &'a str, help: &str) -> Result<Samples<'a>, Error> {
        self.metric(name, help, MetricType::Counter)
    }

    pub fn histogram<'a>(&'a mut self, name: &'a str, help: &str) -> Result<Samples<'a>, Error> {
        self.metric(name, help, MetricType::Histogram)
    }

    /// Writes the lines before the samples. In OpenMetrics, they name a counter without `_total`, and have a line for the
    /// unit. In the text format, they name a metric as its samples do.
    fn metric<'a>(
        &'a mut self,
        name: &'a str,
        help: &str,
        metric_type: MetricType,
    ) -> Result<Samples<'a>, Error> {
        let is_open_metrics = self.format == Format::OpenMetrics;
        let total = name.strip_suffix("_total").filter(|_| is_open_metrics);
        let seconds = name.strip_suffix("_seconds").filter(|_| is_open_metrics);
        let unit = seconds.map(|_| &Unit::Seconds);
        let name = total.or(seconds).unwrap_or(name);
        let encoder = self
            .encoder
            .encode_descriptor(name, help, unit, metric_type)?;
        Ok(Samples {
            encoder,
            adds_total: total.is_some(),
        })
    }
}

impl Samples<'_> {
    /// Writes the only sample of a gauge.
    pub fn value(&mut self, value: u64) -> Result<(), Error> {
        self.encoder.encode_gauge(&value)
    }

    /// Writes a sample of a gauge or a counter.
    pub fn labeled<const N: usize>(
        &mut self,
        labels: &[(&'static str, &str); N],
        value: u64,
    ) -> Result<(), Error> {
        let mut sample = self.encoder.encode_family(labels)?;
        if self.adds_total {
            sample.encode_counter::<NoLabelSet, u64, u64>(&value, None)
        } else {
            sample.encode_gauge(&value)
        }
    }

    /// Writes the samples of a histogram.
    pub fn durations(&mut self, resource: &str, durations: &Durations) -> Result<(), Error> {
        let bounds = Durations::BOUNDS.into_iter().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = std::iter::zip(bounds, durations.counts).collect();
        let count = durations.counts.iter().sum();
        self.encoder
            .encode_family(&[("resource", resource)])?
            .encode_histogram::<NoLabelSet>(durations.sum, count, &buckets, None)
    }
}
