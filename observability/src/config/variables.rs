//! Table of the `OTEL_*` variables of the OpenTelemetry specification.
//!
//! Sources: "Environment Variable Specification", "OpenTelemetry Protocol Exporter", and the HTTP semantic
//! conventions. A test compares the table with `docs/telemetry.md`.

use std::ffi::OsString;

use Support::{Honoured, Partial, Unsupported};

/// Minimum similarity of two names, from 0 to 1, for one to be a misspelling of the other.
const MIN_SIMILARITY: f64 = 0.75;

/// Support of a variable, with the reason if it is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Support {
    /// Read as specified.
    Honoured,
    /// Read, but some values have no effect. Each such value causes a warning.
    Partial(&'static str),
    /// Not read.
    Unsupported(&'static str),
}

const NO_METRICS: &str = "metrics are scraped from /metrics";
const NO_LOGS: &str = "log lines are written to stdout";
const NO_CLIENT_CERTIFICATE: &str = "client certificates are not supported";
const NO_INSECURE: &str = "the scheme of the endpoint decides";
const NO_FILE: &str = "configuration files are not supported";
const ZIPKIN: &str = "spans are exported by OTLP";
const CAPTURE: &str = "handlers add attributes with `observability::record`";

/// Variables of equal support.
const VARIABLES: [(Support, &[&str]); 18] = [
    (
        Honoured,
        &[
            "OTEL_SDK_DISABLED",
            "OTEL_SERVICE_NAME",
            "OTEL_RESOURCE_ATTRIBUTES",
            "OTEL_TRACES_SAMPLER_ARG",
            "OTEL_BSP_SCHEDULE_DELAY",
            "OTEL_BSP_MAX_QUEUE_SIZE",
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
            "OTEL_ATTRIBUTE_COUNT_LIMIT",
            "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
            "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT",
            "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT",
            "OTEL_SPAN_EVENT_COUNT_LIMIT",
            "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT",
            "OTEL_SPAN_LINK_COUNT_LIMIT",
            "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT",
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "OTEL_EXPORTER_OTLP_HEADERS",
            "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
            "OTEL_EXPORTER_OTLP_COMPRESSION",
            "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION",
            "OTEL_EXPORTER_OTLP_CERTIFICATE",
            "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE",
            "OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS",
        ],
    ),
    (
        Partial("0 is not accepted as no limit"),
        &[
            "OTEL_BSP_EXPORT_TIMEOUT",
            "OTEL_EXPORTER_OTLP_TIMEOUT",
            "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
        ],
    ),
    (
        Partial("`jaeger_remote`, `parentbased_jaeger_remote` and `xray` are not supported"),
        &["OTEL_TRACES_SAMPLER"],
    ),
    (Partial("only `tracecontext`, `baggage` and `none` are supported"), &["OTEL_PROPAGATORS"]),
    (Partial("only `otlp` and `none` are supported"), &["OTEL_TRACES_EXPORTER"]),
    (
        Partial("`http/json` is not supported"),
        &["OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"],
    ),
    (Unsupported("RUST_LOG is the log filter"), &["OTEL_LOG_LEVEL"]),
    (
        Unsupported(NO_LOGS),
        &[
            "OTEL_LOGS_EXPORTER",
            "OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT",
            "OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT",
            "OTEL_BLRP_SCHEDULE_DELAY",
            "OTEL_BLRP_EXPORT_TIMEOUT",
            "OTEL_BLRP_MAX_QUEUE_SIZE",
            "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE",
            "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT",
            "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL",
            "OTEL_EXPORTER_OTLP_LOGS_HEADERS",
            "OTEL_EXPORTER_OTLP_LOGS_COMPRESSION",
            "OTEL_EXPORTER_OTLP_LOGS_TIMEOUT",
            "OTEL_EXPORTER_OTLP_LOGS_CERTIFICATE",
            "OTEL_EXPORTER_OTLP_LOGS_CLIENT_CERTIFICATE",
            "OTEL_EXPORTER_OTLP_LOGS_CLIENT_KEY",
            "OTEL_EXPORTER_OTLP_LOGS_INSECURE",
        ],
    ),
    (
        Unsupported(NO_METRICS),
        &[
            "OTEL_METRICS_EXPORTER",
            "OTEL_METRIC_EXPORT_INTERVAL",
            "OTEL_METRIC_EXPORT_TIMEOUT",
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
            "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL",
            "OTEL_EXPORTER_OTLP_METRICS_HEADERS",
            "OTEL_EXPORTER_OTLP_METRICS_COMPRESSION",
            "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT",
            "OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE",
            "OTEL_EXPORTER_OTLP_METRICS_CLIENT_CERTIFICATE",
            "OTEL_EXPORTER_OTLP_METRICS_CLIENT_KEY",
            "OTEL_EXPORTER_OTLP_METRICS_INSECURE",
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
            "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
        ],
    ),
    (
        Unsupported("LISTEN_ADDR or ADMIN_ADDR is the address of /metrics"),
        &["OTEL_EXPORTER_PROMETHEUS_HOST", "OTEL_EXPORTER_PROMETHEUS_PORT"],
    ),
    (Unsupported("exemplars are those of sampled spans"), &["OTEL_METRICS_EXEMPLAR_FILTER"]),
    (
        Unsupported(NO_CLIENT_CERTIFICATE),
        &[
            "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
            "OTEL_EXPORTER_OTLP_CLIENT_KEY",
            "OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE",
            "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY",
        ],
    ),
    (
        Unsupported(NO_INSECURE),
        &[
            "OTEL_EXPORTER_OTLP_INSECURE",
            "OTEL_EXPORTER_OTLP_TRACES_INSECURE",
            "OTEL_EXPORTER_OTLP_SPAN_INSECURE",
            "OTEL_EXPORTER_OTLP_METRIC_INSECURE",
        ],
    ),
    (
        Unsupported(ZIPKIN),
        &[
            "OTEL_EXPORTER_ZIPKIN_ENDPOINT",
            "OTEL_EXPORTER_ZIPKIN_TIMEOUT",
            "OTEL_EXPORTER_ZIPKIN_PROTOCOL",
        ],
    ),
    (Unsupported(NO_FILE), &["OTEL_CONFIG_FILE", "OTEL_EXPERIMENTAL_CONFIG_FILE"]),
    (Unsupported("use OTEL_RESOURCE_ATTRIBUTES"), &["OTEL_ENTITIES"]),
    (
        Unsupported("only the stable semantic conventions are supported"),
        &["OTEL_SEMCONV_STABILITY_OPT_IN"],
    ),
    (
        Unsupported(CAPTURE),
        &[
            "OTEL_INSTRUMENTATION_HTTP_CLIENT_CAPTURE_REQUEST_HEADERS",
            "OTEL_INSTRUMENTATION_HTTP_CLIENT_CAPTURE_RESPONSE_HEADERS",
            "OTEL_INSTRUMENTATION_HTTP_SERVER_CAPTURE_REQUEST_HEADERS",
            "OTEL_INSTRUMENTATION_HTTP_SERVER_CAPTURE_RESPONSE_HEADERS",
        ],
    ),
];

/// Returns the support of a variable, or `None` for an unknown one.
pub(crate) fn support(variable: &str) -> Option<Support> {
    let (support, _) = VARIABLES.iter().find(|(_, names)| names.contains(&variable))?;
    Some(*support)
}

/// Returns a warning for each `OTEL_*` variable that is set and has no effect, in the order of their names.
/// An empty value counts as unset, and a warning contains no value.
pub(crate) fn warnings(variables: impl Iterator<Item = (OsString, OsString)>) -> Vec<String> {
    let mut warnings: Vec<_> = otel_variables(variables)
        .filter_map(|(name, value)| {
            let text = warning(&name)?;
            // A signal that is not exported has the exporter `none`.
            let is_off = name.ends_with("S_EXPORTER") && value.eq_ignore_ascii_case("none");
            (!is_off).then(|| format!("{name}: {text}"))
        })
        .collect();
    warnings.sort_unstable();
    warnings
}

/// Returns the `OTEL_*` variables that are set.
pub(crate) fn otel_variables(
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> impl Iterator<Item = (String, OsString)> {
    variables
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value))
        .filter(|(name, _)| name.starts_with("OTEL_"))
}

/// Returns the reason for which a variable has no effect, or `None` if it has one.
pub(crate) fn warning(name: &str) -> Option<String> {
    match support(name) {
        Some(Honoured | Partial(_)) => None,
        Some(Unsupported(reason)) => Some(format!("not supported; {reason}")),
        None => Some(match nearest(name) {
            Some(nearest) => format!("unknown variable; did you mean {nearest}?"),
            None => "unknown variable".to_owned(),
        }),
    }
}

/// Returns the known name that is most similar to `name`, if it is similar enough.
fn nearest(name: &str) -> Option<&'static str> {
    let names = VARIABLES.iter().flat_map(|(_, names)| *names);
    names
        .map(|known| (strsim::normalized_damerau_levenshtein(name, known), *known))
        .filter(|(similarity, _)| *similarity >= MIN_SIMILARITY)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn variable_without_effect_is_named() {
        let secret = "s3cret";
        let warnings = warnings(
            [
                ("OTEL_EXPORTER_OTLP_ENDPIONT", secret),
                ("OTEL_EXPORTER_OTLP_INSECURE", secret),
                ("OTEL_LOGS_EXPORTER", "none"),
                ("OTEL_LOG_LEVEL", ""),
                ("OTEL_SERVICE_NAME", secret),
                ("OTEL_X", secret),
                ("PATH", secret),
            ]
            .map(|(name, value)| (name.into(), value.into()))
            .into_iter(),
        );
        assert_eq!(
            warnings,
            [
                "OTEL_EXPORTER_OTLP_ENDPIONT: unknown variable; did you mean OTEL_EXPORTER_OTLP_ENDPOINT?",
                "OTEL_EXPORTER_OTLP_INSECURE: not supported; the scheme of the endpoint decides",
                "OTEL_X: unknown variable",
            ]
        );
    }

    #[test]
    fn documented_support_equals_table() {
        let docs = include_str!("../../../docs/telemetry.md");
        let section = docs.split("\n### Support of the specification\n").nth(1).unwrap();
        let section = section.split("\n#").next().unwrap();
        let mut documented = BTreeMap::new();
        for row in section.lines().filter(|line| line.starts_with("| `OTEL_")) {
            let cells: Vec<_> = row.split('|').map(str::trim).collect();
            for name in cells[1].split('`').skip(1).step_by(2) {
                let earlier = documented.insert(name.to_owned(), cells[2].to_owned());
                assert_eq!(earlier, None, "{name} is documented twice");
            }
        }
        let mut known = BTreeMap::new();
        for (support, names) in VARIABLES {
            let text = match support {
                Honoured => "honoured".to_owned(),
                Partial(reason) => format!("in part: {reason}"),
                Unsupported(reason) => format!("not supported: {reason}"),
            };
            for name in names {
                assert_eq!(known.insert((*name).to_owned(), text.clone()), None, "{name} twice");
            }
        }
        assert_eq!(documented, known);
    }
}
