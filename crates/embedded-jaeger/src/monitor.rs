//! Metrics of the UI's Monitor page: `/api/metrics/{latencies,calls,errors,minstep}`, in the JSON of
//! Jaeger's `MetricFamily`.

use std::time::{Duration, UNIX_EPOCH};

use axum::Json;
use serde::Serialize;
use serde_json::{Value, json};

use crate::json::{Envelope, QueryError};
use crate::query_params::QueryParams;
use crate::red::{Counts, SLOT_MS, Selection, Slots, sum};
use crate::store::Store;

/// Maximum number of points of a series.
const MAX_POINTS: u64 = 11_000;

/// Metric of a query.
#[derive(Clone, Copy)]
enum Metric {
    Calls,
    Errors,
    Latencies { quantile: f64 },
}

/// Responds to a query of a metric.
pub(crate) fn respond(
    store: &Store,
    name: &str,
    params: &QueryParams,
) -> Result<Json<Value>, QueryError> {
    let metric = match name {
        "minstep" => return Ok(Json(json!(Envelope::new(SLOT_MS)))),
        "calls" => Metric::Calls,
        "errors" => Metric::Errors,
        "latencies" => Metric::Latencies { quantile: params.quantile()? },
        _ => return Err(QueryError::bad_request("expecting latencies, calls, errors or minstep")),
    };
    let window = Window::new(params)?;
    params.service()?;
    let selection = Selection {
        services: params.all("service").map(str::to_owned).collect(),
        kinds: params.span_kinds()?,
        by_operation: params.flag("groupByOperation")?,
    };
    let (selected, start_ms) = store.red(|red| (red.select(&selection), red.start_ms()));
    let mut series: Vec<_> = selected.into_iter().collect();
    series.sort_by(|(a, _), (b, _)| a.cmp(b));
    let metrics = series.iter().map(|((service, operation), slots)| Series {
        labels: [("service_name", Some(service)), ("operation", operation.as_ref())]
            .into_iter()
            .filter_map(|(name, value)| Some(json!({ "name": name, "value": &**value? })))
            .collect(),
        metric_points: window.points(metric, slots, start_ms.unwrap_or_default()),
    });
    let prefix = if selection.by_operation { "service_operation" } else { "service" };
    let (suffix, help) = match metric {
        Metric::Calls => ("call_rate", "calls/sec"),
        Metric::Errors => ("error_rate", "fraction of calls that failed"),
        Metric::Latencies { .. } => ("latencies", "quantile of the durations in milliseconds"),
    };
    Ok(Json(json!({
        "name": format!("{prefix}_{suffix}"),
        "type": "GAUGE",
        "help": help,
        "metrics": metrics.collect::<Vec<_>>(),
    })))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Series {
    labels: Vec<Value>,
    metric_points: Vec<Value>,
}

/// Times of the points. Each covers the time `rate_per_ms` before it.
struct Window {
    end_ms: u64,
    lookback_ms: u64,
    step_ms: u64,
    rate_per_ms: u64,
}

impl Window {
    fn new(params: &QueryParams) -> Result<Self, QueryError> {
        let window = Self {
            end_ms: params.end_ns()? / 1_000_000,
            lookback_ms: params.positive_ms("lookback", 3_600_000)?,
            step_ms: params.positive_ms("step", 5_000)?,
            rate_per_ms: params.positive_ms("ratePer", 600_000)?,
        };
        if window.lookback_ms / window.step_ms > MAX_POINTS {
            return Err(QueryError::bad_request("'step' is too small for 'lookback'"));
        }
        Ok(window)
    }

    fn points(&self, metric: Metric, slots: &Slots, start_ms: u64) -> Vec<Value> {
        let first_ms = self.end_ms.saturating_sub(self.lookback_ms);
        let times =
            (0..=self.lookback_ms / self.step_ms).map(|step| first_ms + step * self.step_ms);
        times
            .filter(|time_ms| *time_ms > start_ms)
            .map(|time_ms| {
                // A rate since the start of this Jaeger is not one of a longer time.
                let from_ms = time_ms.saturating_sub(self.rate_per_ms) / SLOT_MS * SLOT_MS;
                let from_ms = from_ms.max(start_ms);
                let seconds = ((time_ms - from_ms) as f64 / 1e3).max(1.0);
                let value = metric.value(&sum(slots, from_ms, time_ms), seconds);
                let timestamp = UNIX_EPOCH + Duration::from_millis(time_ms);
                json!({
                    "gaugeValue": { "doubleValue": value },
                    "timestamp": humantime::format_rfc3339_millis(timestamp).to_string(),
                })
            })
            .collect()
    }
}

impl Metric {
    /// Returns the value of a point, in protobuf's JSON: a number, or `"NaN"` if there is no call.
    fn value(self, counts: &Counts, seconds: f64) -> Value {
        let value = match self {
            Self::Calls => f64::from(counts.calls) / seconds,
            Self::Errors => f64::from(counts.errors) / f64::from(counts.calls),
            Self::Latencies { quantile } => counts.quantile_ms(quantile),
        };
        if value.is_nan() { "NaN".into() } else { value.into() }
    }
}
