//! Registry of all series, and the recorder through which a service adds its series.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Label, Metadata, Recorder, SharedString, Unit,
};
use parking_lot::{Mutex, RwLock};

use super::exposition::{self, Format};
use super::family::{Families, Kind, Problem};
use super::names::{FLOAT_COUNTERS, METRICS_REJECTED};
use super::series::{self, Series};

/// Registry of all series. A clone shares it.
#[derive(Clone)]
pub(super) struct Registry(Arc<Inner>);

struct Inner {
    /// Series by the key under which they were registered. Those over the limit are not kept, so that memory
    /// is bounded.
    known: RwLock<HashMap<Key, Series>>,
    families: Mutex<Families>,
    limit: usize,
    rejected: Rejected,
}

/// Counters of [`METRICS_REJECTED`].
struct Rejected {
    series_limit: Arc<series::Counter>,
    name_conflict: Arc<series::Counter>,
    not_finite: Arc<series::Counter>,
}

impl Registry {
    /// Creates a registry whose families have at most `limit` series each.
    pub(super) fn new(limit: usize) -> Self {
        let mut families = Families::default();
        let mut rejected = |reason: &'static str| {
            let counter = Arc::new(series::Counter::new());
            let key = Key::from_parts(METRICS_REJECTED, vec![Label::new("error_type", reason)]);
            let series = Series::Counter(Arc::clone(&counter));
            families.register(&key, Kind::Counter, usize::MAX, |_| series);
            counter
        };
        let rejected = Rejected {
            series_limit: rejected("series_limit"),
            name_conflict: rejected("name_conflict"),
            not_finite: rejected("not_finite"),
        };
        let (known, families) = (RwLock::default(), Mutex::new(families));
        Self(Arc::new(Inner { known, families, limit, rejected }))
    }

    pub(super) fn limit(&self) -> usize {
        self.0.limit
    }

    pub(super) fn counter(&self, name: &'static str, labels: Vec<Label>) -> Counter {
        Counter::from_arc(self.counter_with_exemplar(name, labels))
    }

    pub(super) fn counter_with_exemplar(
        &self,
        name: &'static str,
        labels: Vec<Label>,
    ) -> Arc<series::Counter> {
        self.counter_of(&Key::from_parts(name, labels))
    }

    pub(super) fn gauge(&self, name: &'static str, labels: Vec<Label>) -> Gauge {
        Gauge::from_arc(self.gauge_of(&Key::from_parts(name, labels), gauge_kind(name)))
    }

    /// Registers an info metric, whose value is 1.
    pub(super) fn info(&self, name: &'static str, labels: Vec<Label>) {
        let key = Key::from_parts(name, labels);
        Gauge::from_arc(self.gauge_of(&key, Kind::Info)).set(1.0);
    }

    pub(super) fn histogram(
        &self,
        name: &'static str,
        labels: Vec<Label>,
    ) -> Arc<series::Histogram> {
        self.histogram_of(&Key::from_parts(name, labels))
    }

    /// Sets the bounds of the buckets of a histogram that has no series yet.
    pub(super) fn set_bounds(&self, name: &str, bounds: &[f64]) {
        let mut bounds: Vec<f64> =
            bounds.iter().copied().filter(|bound| bound.is_finite()).collect();
        bounds.sort_by(f64::total_cmp);
        bounds.dedup();
        if !self.0.families.lock().set_bounds(name, bounds.leak()) {
            tracing::warn!(target: "observability", metric = name, "bounds set after first use");
        }
    }

    /// Writes all series.
    pub(super) fn render(&self, format: Format) -> String {
        exposition::render(&self.0.families.lock(), format)
    }

    fn counter_of(&self, key: &Key) -> Arc<series::Counter> {
        match self.series(key, Kind::Counter) {
            Some(Series::Counter(counter)) => counter,
            _ => Arc::new(series::Counter::new()),
        }
    }

    fn gauge_of(&self, key: &Key, kind: Kind) -> Arc<AtomicU64> {
        match self.series(key, kind) {
            Some(Series::Gauge(gauge)) => gauge,
            _ => Arc::default(),
        }
    }

    fn histogram_of(&self, key: &Key) -> Arc<series::Histogram> {
        match self.series(key, Kind::Histogram) {
            Some(Series::Histogram(histogram)) => histogram,
            _ => Arc::new(series::Histogram::new(&[], Arc::clone(&self.0.rejected.not_finite))),
        }
    }

    /// Returns the series of a key, or `None` if its name is taken by another type.
    fn series(&self, key: &Key, kind: Kind) -> Option<Series> {
        if let Some(series) = self.0.known.read().get(key)
            && kind.has(series)
        {
            return Some(series.clone());
        }
        let create = |bounds| match kind {
            Kind::Counter => Series::Counter(Arc::new(series::Counter::new())),
            Kind::FloatCounter | Kind::Gauge | Kind::Info => Series::Gauge(Arc::default()),
            Kind::Histogram => {
                let not_finite = Arc::clone(&self.0.rejected.not_finite);
                Series::Histogram(Arc::new(series::Histogram::new(bounds, not_finite)))
            }
        };
        let registered = self.0.families.lock().register(key, kind, self.0.limit, create);
        let (series, problem) = registered;
        if let Some(problem) = problem {
            self.report(key.name(), problem);
        }
        if let (Some(series), None | Some(Problem::Merged)) = (&series, problem) {
            self.0.known.write().insert(key.clone(), series.clone());
        }
        series
    }

    /// Counts a problem of a metric, and logs it the first time.
    pub(super) fn report(&self, metric: &str, problem: Problem) {
        match problem {
            Problem::SeriesLimit => self.0.rejected.series_limit.increment_with(None),
            Problem::NameConflict => self.0.rejected.name_conflict.increment_with(None),
            Problem::Merged => {}
        }
        // The lock is released before the warning, because the log may record metrics.
        let is_first = self.0.families.lock().is_first(metric, problem);
        if is_first {
            tracing::warn!(target: "observability", metric, "{problem}");
        }
    }
}

fn gauge_kind(name: &str) -> Kind {
    if FLOAT_COUNTERS.contains(&name) { Kind::FloatCounter } else { Kind::Gauge }
}

impl Recorder for Registry {
    fn describe_counter(&self, name: KeyName, _: Option<Unit>, help: SharedString) {
        self.0.families.lock().describe(name.as_str(), Kind::Counter, &help);
    }

    fn describe_gauge(&self, name: KeyName, _: Option<Unit>, help: SharedString) {
        self.0.families.lock().describe(name.as_str(), gauge_kind(name.as_str()), &help);
    }

    fn describe_histogram(&self, name: KeyName, _: Option<Unit>, help: SharedString) {
        self.0.families.lock().describe(name.as_str(), Kind::Histogram, &help);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.counter_of(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.gauge_of(key, gauge_kind(key.name())))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.histogram_of(key))
    }
}

#[cfg(test)]
mod tests {
    use metrics::{counter, gauge, histogram, with_local_recorder};

    use super::*;

    /// Registers metrics as a service does, and returns both pages without what `Registry` adds.
    fn pages(limit: usize, record: impl Fn()) -> [String; 2] {
        let registry = Registry::new(limit);
        with_local_recorder(&registry, record);
        [Format::Text, Format::OpenMetrics].map(|format| registry.render(format))
    }

    #[track_caller]
    fn assert_lines(page: &str, lines: &[&str]) {
        for line in lines {
            assert_eq!(page.lines().filter(|l| l == line).count(), 1, "{line} in {page}");
        }
    }

    #[test]
    fn writer_knows_family_types() {
        let [text, openmetrics] = pages(9, || {
            gauge!("rate_limit_bucket", "rule" => "login", "le" => "x").set(2.0);
            gauge!("memory_total").set(f64::NEG_INFINITY);
            counter!("jobs").increment(3);
            gauge!("").set(f64::NAN);
        });
        let gauges = [
            r#"rate_limit_bucket{le="x",rule="login"} 2"#,
            "memory_total -Inf",
            "_ NaN",
            "jobs_total 3",
        ];
        assert_lines(&text, &gauges);
        assert_lines(&openmetrics, &gauges);
        assert_lines(&text, &["# TYPE jobs_total counter", "# TYPE memory_total gauge"]);
        assert_lines(&openmetrics, &["# TYPE jobs counter", "# TYPE memory_total gauge", "# EOF"]);
        assert!(openmetrics.contains("\njobs_created 1"), "{openmetrics}");
        assert!(!text.contains("_created"), "{text}");
    }

    #[test]
    fn colliding_names_share_one_series() {
        let [text, openmetrics] = pages(9, || {
            counter!("a.b_total").increment(1);
            counter!("a_b_total").increment(2);
            counter!("c", "a.b" => "1", "a_b" => "2", "empty" => "").increment(4);
            counter!("c", "a_b" => "1;2").increment(8);
            counter!("d").increment(1);
            gauge!("d").set(5.0);
            gauge!("d_created").set(5.0);
        });
        for page in [&text, &openmetrics] {
            assert_lines(page, &["a_b_total 3", r#"c_total{a_b="1;2"} 12"#, "d_total 1"]);
            assert_lines(page, &[r#"metrics_rejected_total{error_type="name_conflict"} 2"#]);
            assert!(!page.contains(" 5"), "{page}");
        }
    }

    #[test]
    fn label_values_are_escaped() {
        let value = "a\"b\\c\nd\u{1f600}";
        for page in pages(9, || gauge!("g", "__name__" => value, "é" => "1").set(1.0)) {
            assert_lines(&page, &["g{_=\"1\",_name__=\"a\\\"b\\\\c\\nd\u{1f600}\"} 1"]);
        }
    }

    #[test]
    fn histogram_bounds_follow_name() {
        let registry = Registry::new(9);
        registry.set_bounds("size_bytes", &[1e6, f64::NAN, 1e-5, 1.0, 1.0]);
        with_local_recorder(&registry, || {
            for value in [0.0002, 1.0, f64::NAN, f64::INFINITY] {
                histogram!("t_seconds").record(value);
                histogram!("items", "le" => "x").record(value);
                histogram!("size_bytes").record(value);
            }
            histogram!("delta").record(-3.0);
        });
        let [text, openmetrics] =
            [Format::Text, Format::OpenMetrics].map(|format| registry.render(format));
        assert_lines(
            &text,
            &[
                "# TYPE t_seconds histogram",
                r#"t_seconds_bucket{le="0.0005"} 1"#,
                r#"t_seconds_bucket{le="10"} 2"#,
                "t_seconds_sum 1.0002",
                "t_seconds_count 2",
                r#"items_bucket{exported_le="x",le="0"} 0"#,
                r#"items_bucket{exported_le="x",le="10000"} 2"#,
                r#"size_bytes_bucket{le="1e-05"} 0"#,
                r#"size_bytes_bucket{le="1e+06"} 2"#,
                r#"size_bytes_bucket{le="+Inf"} 2"#,
                "delta_sum -3",
                r#"metrics_rejected_total{error_type="not_finite"} 6"#,
            ],
        );
        assert_lines(
            &openmetrics,
            &[
                "# UNIT t_seconds seconds",
                "# UNIT size_bytes bytes",
                r#"t_seconds_bucket{le="10.0"} 2"#,
                r#"size_bytes_bucket{le="1e+06"} 2"#,
                r#"size_bytes_bucket{le="1.0"} 2"#,
                r#"delta_bucket{le="0.0"} 1"#,
            ],
        );
        assert!(!openmetrics.contains("delta_sum"), "{openmetrics}");
        assert_eq!(text.matches("size_bytes_bucket").count(), 4, "{text}");
    }

    #[test]
    fn series_over_limit_are_other() {
        let registry = Registry::new(10);
        with_local_recorder(&registry, || {
            for user in 0..100_000 {
                counter!("visits", "user" => user.to_string()).increment(1);
            }
        });
        let page = registry.render(Format::Text);
        assert_eq!(page.matches("\nvisits_total{").count(), 11, "{page}");
        assert_lines(
            &page,
            &[
                r#"visits_total{user="_OTHER"} 99990"#,
                r#"metrics_rejected_total{error_type="series_limit"} 99990"#,
            ],
        );
        assert_eq!(registry.0.known.read().len(), 10);
    }
}
