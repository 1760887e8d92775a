//! Writer of the page in the protobuf format of Prometheus, the only one that has native histograms.
//!
//! Source: `io/prometheus/client/metrics.proto` of prometheus/client_model. Each family is a message that is
//! preceded by its length.

use std::sync::atomic::Ordering;
use std::time::SystemTime;

use prost::Message;
use prost_types::Timestamp;

use super::family::{Families, Kind, Labels};
use super::native::{NativeBuckets, SCHEMA, ZERO_THRESHOLD};
use super::{exemplar, series};

#[derive(Clone, PartialEq, Message)]
pub(super) struct MetricFamily {
    #[prost(string, optional, tag = "1")]
    pub(super) name: Option<String>,
    #[prost(string, optional, tag = "2")]
    help: Option<String>,
    #[prost(enumeration = "MetricType", optional, tag = "3")]
    kind: Option<i32>,
    #[prost(message, repeated, tag = "4")]
    pub(super) metric: Vec<Metric>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
enum MetricType {
    Counter = 0,
    Gauge = 1,
    Histogram = 4,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Metric {
    #[prost(message, repeated, tag = "1")]
    label: Vec<LabelPair>,
    #[prost(message, optional, tag = "2")]
    gauge: Option<Gauge>,
    #[prost(message, optional, tag = "3")]
    pub(super) counter: Option<Counter>,
    #[prost(message, optional, tag = "7")]
    pub(super) histogram: Option<Histogram>,
}

#[derive(Clone, PartialEq, Message)]
struct LabelPair {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(string, optional, tag = "2")]
    value: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Gauge {
    #[prost(double, optional, tag = "1")]
    value: Option<f64>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Counter {
    #[prost(double, optional, tag = "1")]
    pub(super) value: Option<f64>,
    #[prost(message, optional, tag = "2")]
    exemplar: Option<Exemplar>,
    #[prost(message, optional, tag = "3")]
    created_timestamp: Option<Timestamp>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Histogram {
    #[prost(uint64, optional, tag = "1")]
    pub(super) sample_count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    pub(super) sample_sum: Option<f64>,
    #[prost(message, repeated, tag = "3")]
    pub(super) bucket: Vec<Bucket>,
    #[prost(sint32, optional, tag = "5")]
    pub(super) schema: Option<i32>,
    #[prost(double, optional, tag = "6")]
    zero_threshold: Option<f64>,
    #[prost(uint64, optional, tag = "7")]
    pub(super) zero_count: Option<u64>,
    #[prost(message, repeated, tag = "12")]
    pub(super) positive_span: Vec<BucketSpan>,
    #[prost(sint64, repeated, tag = "13")]
    pub(super) positive_delta: Vec<i64>,
    #[prost(message, optional, tag = "15")]
    created_timestamp: Option<Timestamp>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Bucket {
    #[prost(uint64, optional, tag = "1")]
    pub(super) cumulative_count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    upper_bound: Option<f64>,
    #[prost(message, optional, tag = "3")]
    exemplar: Option<Exemplar>,
}

/// Consecutive buckets of a native histogram.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct BucketSpan {
    /// Distance to the end of the previous span. That of the first span is the index of its first bucket.
    #[prost(sint32, optional, tag = "1")]
    pub(super) offset: Option<i32>,
    #[prost(uint32, optional, tag = "2")]
    pub(super) length: Option<u32>,
}

#[derive(Clone, PartialEq, Message)]
struct Exemplar {
    #[prost(message, repeated, tag = "1")]
    label: Vec<LabelPair>,
    #[prost(double, optional, tag = "2")]
    value: Option<f64>,
    #[prost(message, optional, tag = "3")]
    timestamp: Option<Timestamp>,
}

/// Writes all families.
pub(super) fn render(families: &Families) -> Vec<u8> {
    let mut page = Vec::new();
    for (name, help, family) in families.iter() {
        let (suffix, kind) = match family.kind {
            Kind::Counter | Kind::FloatCounter => ("_total", MetricType::Counter),
            Kind::Gauge => ("", MetricType::Gauge),
            Kind::Info => ("_info", MetricType::Gauge),
            Kind::Histogram => ("", MetricType::Histogram),
        };
        let message = MetricFamily {
            name: Some(format!("{name}{suffix}")),
            help: help.map(str::to_owned),
            kind: Some(kind.into()),
            metric: family
                .iter()
                .map(|(labels, series)| metric(family.kind, labels, series))
                .collect(),
        };
        page.extend(message.encode_length_delimited_to_vec());
    }
    page
}

fn metric(kind: Kind, labels: &Labels, series: &series::Series) -> Metric {
    let label = labels.iter().map(|label| pair(label.key(), label.value())).collect();
    let mut metric = Metric { label, ..Metric::default() };
    match series {
        series::Series::Counter(counter) => {
            metric.counter = Some(Counter {
                value: Some(counter.get() as f64),
                exemplar: counter.exemplar().map(exemplar),
                created_timestamp: Some(counter.created.into()),
            });
        }
        series::Series::Gauge(value) => {
            let value = Some(f64::from_bits(value.load(Ordering::Acquire)));
            if kind == Kind::FloatCounter {
                metric.counter = Some(Counter { value, ..Counter::default() });
            } else {
                metric.gauge = Some(Gauge { value });
            }
        }
        series::Series::Histogram(series) => metric.histogram = Some(histogram(series)),
    }
    metric
}

fn histogram(series: &series::Histogram) -> Histogram {
    let mut counts: Vec<u64> = series.cumulative_counts().collect();
    // The bucket `+Inf` is the number of samples.
    let mut histogram = Histogram {
        sample_count: counts.pop(),
        sample_sum: Some(series.sum()),
        created_timestamp: Some(series.created.into()),
        ..Histogram::default()
    };
    if let Some(native) = series.native() {
        add_native(&mut histogram, native);
    }
    let bucket = |(n, (bound, count)): (usize, (&f64, u64))| Bucket {
        // A sample may have been recorded between the two readings.
        cumulative_count: histogram.sample_count.map(|all| all.min(count)),
        upper_bound: Some(*bound),
        exemplar: series.exemplar(n).map(exemplar),
    };
    histogram.bucket = series.bounds.iter().zip(counts).enumerate().map(bucket).collect();
    histogram
}

/// Adds the native buckets. Prometheus requires that their sum is the number of samples.
fn add_native(histogram: &mut Histogram, native: &NativeBuckets) {
    let zero_count = native.zero_count();
    let (mut total, mut next, mut previous) = (zero_count, 0, 0);
    for (index, count) in native.counts() {
        match histogram.positive_span.last_mut() {
            Some(BucketSpan { length: Some(length), .. }) if index == next => *length += 1,
            _ => {
                let span = BucketSpan { offset: Some(index - next), length: Some(1) };
                histogram.positive_span.push(span);
            }
        }
        let signed = count.cast_signed();
        histogram.positive_delta.push(signed - previous);
        (total, next, previous) = (total + count, index + 1, signed);
    }
    histogram.sample_count = Some(total);
    histogram.schema = Some(SCHEMA);
    histogram.zero_threshold = Some(ZERO_THRESHOLD);
    histogram.zero_count = Some(zero_count);
}

fn exemplar(exemplar: exemplar::Exemplar) -> Exemplar {
    Exemplar {
        label: exemplar.with_ids(|trace_id, span_id| {
            vec![pair("trace_id", trace_id), pair("span_id", span_id)]
        }),
        value: Some(exemplar.value),
        timestamp: Some(SystemTime::into(exemplar.time)),
    }
}

fn pair(name: &str, value: &str) -> LabelPair {
    LabelPair { name: Some(name.to_owned()), value: Some(value.to_owned()) }
}
