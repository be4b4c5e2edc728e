//! The format of the metrics, which the `Accept` header of a request selects.

use hyper::HeaderMap;
use hyper::header::ACCEPT;
use mime::Mime;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    OpenMetrics,
    /// The Prometheus text format.
    Text,
}

impl Format {
    /// Selects OpenMetrics if the client names it, and does not prefer the text format. Every other client gets the
    /// text format, since everything that reads metrics can read it.
    pub(crate) fn accepted_by(headers: &HeaderMap) -> Self {
        let values = headers.get_all(ACCEPT).into_iter();
        let values = values.filter_map(|value| value.to_str().ok());
        let ranges = values.flat_map(|value| value.split(','));
        let ranges: Vec<Mime> = ranges
            .filter_map(|range| range.trim().parse().ok())
            .collect();
        let open_metrics = quality(&ranges, "application/openmetrics-text", "1.0.0");
        let text = quality(&ranges, "text/plain", "0.0.4")
            .or_else(|| quality(&ranges, "text/*", ""))
            .or_else(|| quality(&ranges, "*/*", ""));
        match open_metrics {
            Some(quality) if quality > 0.0 && quality >= text.unwrap_or(0.0) => Self::OpenMetrics,
            _ => Self::Text,
        }
    }

    pub(crate) const fn media_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// Returns how much the client wants this media type, from 0 to 1; `None` if no range names it. A range without a
/// version accepts every version.
fn quality(ranges: &[Mime], media_type: &str, version: &str) -> Option<f32> {
    let named = ranges.iter().filter(|range| {
        let is_version = range.get_param("version").is_none_or(|it| it == version);
        range.essence_str() == media_type && is_version
    });
    // The quality is 1 by default, see RFC 9110, section 12.4.2.
    let qualities = named.map(|range| match range.get_param("q") {
        Some(quality) => quality.as_str().parse().unwrap_or(0.0),
        None => 1.0,
    });
    qualities.reduce(f32::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(values: &[&'static str]) -> Format {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(ACCEPT, value.parse().expect("a header"));
        }
        Format::accepted_by(&headers)
    }

    #[test]
    fn a_client_that_names_and_prefers_openmetrics_gets_it() {
        for accept in [
            "application/openmetrics-text",
            "application/openmetrics-text; version=1.0.0",
            "APPLICATION/OpenMetrics-Text;Version=\"1.0.0\";charset=utf-8",
            // Prometheus 2.42, 2.55 and 3.
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            "text/plain;version=0.0.4;q=0.4, */*;q=0.1, application/openmetrics-text;version=1.0.0;q=0.5",
            "text/plain;q=0.1,application/openmetrics-text;q=0.5,*/*",
            "text/plain;version=1.0.0,application/openmetrics-text;q=0.5",
            "broken,;,application/openmetrics-text",
        ] {
            assert_eq!(accepted(&[accept]), Format::OpenMetrics, "{accept}");
        }
        let two_headers = ["text/plain;q=0.5", "application/openmetrics-text"];
        assert_eq!(accepted(&two_headers), Format::OpenMetrics);
    }

    #[test]
    fn every_other_client_gets_the_text_format() {
        assert_eq!(accepted(&[]), Format::Text);
        for accept in [
            "",
            "*/*",
            "text/plain",
            "application/json",
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited",
            // Prometheus 3 with the scrape protocol PrometheusText0.0.4.
            "text/plain;version=0.0.4;q=0.6,*/*;q=0.5",
            "application/openmetrics-text;version=0.0.1",
            "application/openmetrics-text;version=1.0.0;q=0",
            "application/openmetrics-text;version=1.0.0;q=nan",
            "application/openmetrics-text;version=1.0.0;q=0.4,text/plain;version=0.0.4;q=0.5",
            "application/openmetrics-text;q=0.4,text/*;q=0.5",
            "application/openmetrics-text;q=0.4,*/*",
            "application/openmetrics-text;q=",
        ] {
            assert_eq!(accepted(&[accept]), Format::Text, "{accept}");
        }
    }
}
