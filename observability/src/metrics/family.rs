//! Model of the page: families of typed series with valid names and labels.
//!
//! Names follow the Prometheus data model. Collisions follow the OpenTelemetry specification, "Prometheus
//! and OpenMetrics Compatibility".

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::thread;

use metrics::{Key, Label};
use metrics_exporter_prometheus::formatting::{sanitize_label_key, sanitize_metric_name};

use super::names::{DEFAULT_BUCKETS, DURATION_BUCKETS};
use super::series::Series;

/// Number of series that are written before other threads may run, in about 0.1 ms.
const SERIES_PER_TURN: usize = 16;

/// Value of the labels of the series that takes what exceeds the limit of a family.
pub(super) const OVERFLOW: &str = "_OTHER";

/// Type of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Counter of whole numbers.
    Counter,
    /// Counter that is set like a gauge because a counter of the `metrics` facade holds whole numbers.
    FloatCounter,
    Gauge,
    Histogram,
    Info,
}

impl Kind {
    /// Returns `true` if a family of this type has such series.
    pub(super) fn has(self, series: &Series) -> bool {
        match series {
            Series::Counter(_) => self == Self::Counter,
            Series::Gauge(_) => matches!(self, Self::Gauge | Self::FloatCounter | Self::Info),
            Series::Histogram(_) => self == Self::Histogram,
        }
    }

    /// Returns the suffixes of the sample names. A family also reserves its bare name.
    fn suffixes(self) -> &'static [&'static str] {
        match self {
            Self::Counter | Self::FloatCounter => &["", "_total", "_created"],
            Self::Gauge => &[""],
            Self::Histogram => &["", "_bucket", "_count", "_sum", "_created"],
            Self::Info => &["", "_info"],
        }
    }

    /// Returns the valid family name for a metric name, without the suffix of its samples.
    pub(super) fn family_name(self, metric: &str) -> String {
        let suffix = match self {
            Self::Counter | Self::FloatCounter => "_total",
            Self::Info => "_info",
            Self::Gauge | Self::Histogram => "",
        };
        let mut name = sanitize_metric_name(metric);
        let stem = name.strip_suffix(suffix).map_or(name.len(), str::len);
        if stem > 0 {
            name.truncate(stem);
        }
        if name.is_empty() { "_".to_owned() } else { name }
    }
}

/// Labels of a series, sorted by name. Names are valid and unique, values are not empty.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Labels(Box<[Label]>);

impl Labels {
    /// Makes the labels of a key valid. Values of labels whose names become equal are joined with `;`.
    fn new(key: &Key, kind: Kind) -> Self {
        let mut raw: Vec<&Label> = key.labels().collect();
        raw.sort();
        let mut labels = BTreeMap::<String, String>::new();
        // Prometheus does not distinguish an empty value from an absent label.
        for label in raw.into_iter().filter(|label| !label.value().is_empty()) {
            labels
                .entry(label_name(label.key(), kind))
                .and_modify(|value| value.extend([";", label.value()]))
                .or_insert_with(|| label.value().to_owned());
        }
        Self(labels.into_iter().map(|(name, value)| Label::new(name, value)).collect())
    }

    fn overflow(&self) -> Self {
        let overflow = |label: &Label| Label::new(label.key().to_owned(), OVERFLOW);
        Self(self.0.iter().map(overflow).collect())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Label> {
        self.0.iter()
    }
}

/// Returns a valid label name. Names with two leading underscores are reserved, and `le` is reserved in
/// histograms.
fn label_name(raw: &str, kind: Kind) -> String {
    let name = sanitize_label_key(raw);
    match name.as_str() {
        "" => "_".to_owned(),
        "le" if kind == Kind::Histogram => "exported_le".to_owned(),
        name if name.starts_with("__") => format!("_{}", name.trim_start_matches('_')),
        _ => name,
    }
}

/// All series of one name.
#[derive(Debug)]
pub(super) struct Family {
    pub(super) kind: Kind,
    series: BTreeMap<Labels, Series>,
    overflow: Option<Labels>,
    /// Name under which the family was registered first.
    raw_name: String,
    /// Label names as they were registered first, by their valid form.
    raw_labels: HashMap<String, String>,
}

impl Family {
    /// Returns the series with their labels. The iterator lets other threads run now and then: writing
    /// thousands of series takes milliseconds, for which requests would wait on a machine with few cores.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Labels, &Series)> {
        self.series.iter().enumerate().map(|(n, series)| {
            if n % SERIES_PER_TURN == SERIES_PER_TURN - 1 {
                thread::yield_now();
            }
            series
        })
    }

    /// Returns `true` if a different name of the metric or of a label has the same valid form.
    fn merges(&mut self, key: &Key) -> bool {
        let (kind, mut merges) = (self.kind, key.name() != self.raw_name);
        for label in key.labels() {
            let name = label_name(label.key(), kind);
            let first = self.raw_labels.entry(name).or_insert_with(|| label.key().to_owned());
            merges |= first != label.key();
        }
        merges
    }
}

/// Problem of a registration. Each is reported once per family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Problem {
    /// Names that differ only in invalid characters share their series.
    Merged,
    /// Another family has a sample of this name. The series is not recorded.
    NameConflict,
    /// The family has reached its limit. The series is counted in the one with the labels `_OTHER`.
    SeriesLimit,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Merged => "metric or label names are equal once they are valid, merging",
            Self::NameConflict => "metric name is taken by a metric of another type, dropping",
            Self::SeriesLimit => "metric exceeds METRICS_SERIES_LIMIT, counting the rest in _OTHER",
        })
    }
}

/// Families by name.
#[derive(Debug, Default)]
pub(super) struct Families {
    families: BTreeMap<String, Family>,
    /// Names of samples, and the family that writes them.
    samples: HashMap<String, String>,
    help: HashMap<String, String>,
    bounds: HashMap<String, &'static [f64]>,
    /// Problems by valid metric name.
    reported: HashSet<(String, Problem)>,
}

impl Families {
    /// Returns the series of a key, which `create` creates with the bounds of its buckets. There is none if
    /// its name is taken by another type.
    pub(super) fn register(
        &mut self,
        key: &Key,
        kind: Kind,
        limit: usize,
        create: impl FnOnce(&'static [f64]) -> Series,
    ) -> (Option<Series>, Option<Problem>) {
        let name = kind.family_name(key.name());
        let samples = || kind.suffixes().iter().map(|suffix| format!("{name}{suffix}"));
        let is_known = self.families.get(&name).map(|family| family.kind == kind);
        if !is_known.unwrap_or_else(|| !samples().any(|sample| self.samples.contains_key(&sample)))
        {
            return (None, Some(Problem::NameConflict));
        }
        let family = self.families.entry(name.clone()).or_insert_with(|| {
            self.samples.extend(samples().map(|sample| (sample, name.clone())));
            Family {
                kind,
                series: BTreeMap::new(),
                overflow: None,
                raw_name: key.name().to_owned(),
                raw_labels: HashMap::new(),
            }
        });
        let mut problem = family.merges(key).then_some(Problem::Merged);
        let mut labels = Labels::new(key, kind);
        if family.series.len() >= limit && !family.series.contains_key(&labels) {
            problem = Some(Problem::SeriesLimit);
            labels = family.overflow.get_or_insert_with(|| labels.overflow()).clone();
        }
        let bounds = self.bounds.get(&name).copied().unwrap_or(default_bounds(&name));
        let series = family.series.entry(labels).or_insert_with(|| create(bounds)).clone();
        (Some(series), problem)
    }

    /// Returns `true` if the problem occurs in the family for the first time.
    pub(super) fn is_first(&mut self, metric: &str, problem: Problem) -> bool {
        self.reported.insert((sanitize_metric_name(metric), problem))
    }

    pub(super) fn describe(&mut self, metric: &str, kind: Kind, help: &str) {
        self.help.insert(kind.family_name(metric), help.to_owned());
    }

    /// Sets the bounds of a histogram. Returns `false` if it has series already.
    pub(super) fn set_bounds(&mut self, metric: &str, bounds: &'static [f64]) -> bool {
        let name = Kind::Histogram.family_name(metric);
        let is_unused = !self.families.contains_key(&name);
        if is_unused {
            self.bounds.insert(name, bounds);
        }
        is_unused
    }

    /// Returns name, help text and series of all families.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, Option<&str>, &Family)> {
        self.families
            .iter()
            .map(|(name, family)| (name.as_str(), self.help.get(name).map(String::as_str), family))
    }
}

fn default_bounds(name: &str) -> &'static [f64] {
    if name.ends_with("_seconds") { &DURATION_BUCKETS } else { &DEFAULT_BUCKETS }
}
