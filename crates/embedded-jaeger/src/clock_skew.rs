//! Warnings about clocks of different hosts that do not agree. Like Jaeger by default, it reports the skew and
//! does not adjust the timestamps.

use std::fmt;

use opentelemetry_proto::tonic::common::v1::AnyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::resource::v1::Resource;

use crate::ids::SpanId;
use crate::span::SpanRecord;
use crate::trace_tree::TraceTree;

/// Returns the warning of each node of the tree. `host` returns the host of a span.
pub(crate) fn skew_warnings<'a>(
    tree: &TraceTree<'_>,
    host: impl Fn(&SpanRecord) -> &'a str,
) -> Vec<Option<String>> {
    let mut skews = vec![Skew(0); tree.nodes.len()];
    let mut warnings = vec![None; tree.nodes.len()];
    for &index in &tree.preorder {
        let node = &tree.nodes[index];
        let parent_id = node.span.parent;
        warnings[index] = if tree.position(node.span.id) != Some(index) {
            Some("duplicate span IDs; skipping clock skew adjustment".to_owned())
        } else if let Some(parent) = node.parent {
            let (host, parent_host) = (host(node.span), host(tree.nodes[parent].span));
            let is_same_host = host == parent_host && !host.is_empty();
            let skew = || Skew::new(node.span, tree.nodes[parent].span);
            // The clock of the host was compared at the first of its spans.
            skews[index] = if is_same_host { skews[parent] } else { skew() };
            skews[index].warning()
        } else if parent_id != SpanId::ZERO && node.parent_warning.is_none() {
            Some(format!(
                "parent span ID={parent_id} is not in the trace; skipping clock skew adjustment"
            ))
        } else {
            None
        };
    }
    warnings
}

/// Returns the id, the first address or the name of the host of a resource, or an empty text.
pub(crate) fn host_key(resource: &Resource) -> String {
    let find = |key| {
        let attribute = resource.attributes.iter().find(|attribute| attribute.key == key)?;
        attribute.value.as_ref()?.value.as_ref()
    };
    match find("host.id").or_else(|| find("host.ip")).or_else(|| find("host.name")) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::ArrayValue(addresses)) => match addresses.values.first() {
            Some(AnyValue { value: Some(Value::StringValue(address)) }) => address.clone(),
            _ => String::new(),
        },
        _ => String::new(),
    }
}

/// Nanoseconds by which a clock seems to be behind that of the parent.
#[derive(Clone, Copy)]
struct Skew(i128);

impl Skew {
    /// Compares the clocks of a child and its parent, which should enclose it.
    fn new(child: &SpanRecord, parent: &SpanRecord) -> Self {
        let times = |span: &SpanRecord| (i128::from(span.start_ns), i128::from(span.duration_ns()));
        let ((start, duration), (parent_start, parent_duration)) = (times(child), times(parent));
        let delay = start - parent_start;
        let slack = parent_duration - duration;
        Self(if slack < 0 {
            // A child that is longer need not end before its parent.
            (-delay).max(0)
        } else if (0..=slack).contains(&delay) {
            0
        } else {
            // Assumes that the request takes as long as the response.
            slack / 2 - delay
        })
    }

    fn warning(self) -> Option<String> {
        let is_skewed = self.0 != 0;
        is_skewed.then(|| {
            format!("clock skew adjustment disabled; not applying calculated delta of {self}")
        })
    }
}

/// Writes a duration as Go does, such as `1m30.5s`, `-500ms` or `1.5µs`.
impl fmt::Display for Skew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ns = self.0.unsigned_abs();
        let sign = if self.0 < 0 { "-" } else { "" };
        write!(f, "{sign}")?;
        let (unit_ns, unit) = match ns {
            0..1_000 => (1, "ns"),
            1_000..1_000_000 => (1_000, "µs"),
            1_000_000..1_000_000_000 => (1_000_000, "ms"),
            _ => (1_000_000_000, "s"),
        };
        let (mut whole, part) = (ns / unit_ns, ns % unit_ns);
        if unit == "s" {
            let (hours, minutes) = (whole / 3_600, whole / 60 % 60);
            if hours > 0 {
                write!(f, "{hours}h")?;
            }
            if whole >= 60 {
                write!(f, "{minutes}m")?;
            }
            whole %= 60;
        }
        let digits = unit_ns.ilog10() as usize;
        let fraction = format!(".{part:0digits$}");
        write!(f, "{whole}{}{unit}", fraction.trim_end_matches('0').trim_end_matches('.'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skew_is_written_like_go() {
        for (ns, text) in [
            (1, "1ns"),
            (-999, "-999ns"),
            (1_500, "1.5µs"),
            (-500_000_000, "-500ms"),
            (10_020_000, "10.02ms"),
            (1_000_000_000, "1s"),
            (20_000_000_000, "20s"),
            (60_000_000_000, "1m0s"),
            (90_500_000_001, "1m30.500000001s"),
            (3_600_000_000_000, "1h0m0s"),
            (360_000_000_000_000, "100h0m0s"),
        ] {
            assert_eq!(Skew(ns).to_string(), text);
        }
    }
}
