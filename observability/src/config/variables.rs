//! The environment variables of OpenTelemetry, and warnings about those that have no effect.
//!
//! Source: OpenTelemetry specification 1.60, "Environment Variable Specification" and "OpenTelemetry Protocol
//! Exporter", and the semantic conventions 1.44.

use std::ffi::OsString;

/// Effect of a variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Support {
    Honoured,
    /// Only these values describe what the services do.
    Fixed(&'static [&'static str]),
    /// Reason for which it has no effect.
    Unsupported(&'static str),
}

/// All variables. A name that ends in `*` stands for all names that begin like it.
#[rustfmt::skip]
pub(super) const VARIABLES: [(&[&str], Support); 16] = [
    (&["OTEL_SDK_DISABLED", "OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_PROPAGATORS",
       "OTEL_TRACES_EXPORTER", "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG",
       "OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS"], Support::Honoured),
    (&["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
       "OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
       "OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
       "OTEL_EXPORTER_OTLP_COMPRESSION", "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION",
       "OTEL_EXPORTER_OTLP_TIMEOUT", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
       "OTEL_EXPORTER_OTLP_CERTIFICATE", "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE"], Support::Honoured),
    (&["OTEL_BSP_SCHEDULE_DELAY", "OTEL_BSP_EXPORT_TIMEOUT", "OTEL_BSP_MAX_QUEUE_SIZE",
       "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"], Support::Honoured),
    (&["OTEL_ATTRIBUTE_COUNT_LIMIT", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
       "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT",
       "OTEL_SPAN_EVENT_COUNT_LIMIT", "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT",
       "OTEL_SPAN_LINK_COUNT_LIMIT", "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT"], Support::Honoured),
    (&["OTEL_METRICS_EXPORTER"], Support::Fixed(&["prometheus", "none"])),
    (&["OTEL_METRICS_EXEMPLAR_FILTER"], Support::Fixed(&["trace_based"])),
    (&["OTEL_LOGS_EXPORTER"], Support::Fixed(&["console", "none"])),
    (&["OTEL_EXPORTER_PROMETHEUS_HOST", "OTEL_EXPORTER_PROMETHEUS_PORT"],
     Support::Unsupported("ADMIN_ADDR sets the address of /metrics")),
    (&["OTEL_EXPORTER_OTLP_METRICS_*", "OTEL_EXPORTER_OTLP_METRIC_INSECURE", "OTEL_METRIC_EXPORT_*"],
     Support::Unsupported("metrics are scraped from /metrics")),
    (&["OTEL_EXPORTER_OTLP_LOGS_*", "OTEL_BLRP_*", "OTEL_LOGRECORD_*"],
     Support::Unsupported("log lines go to stdout")),
    (&["OTEL_LOG_LEVEL"], Support::Unsupported("RUST_LOG filters log lines")),
    (&["OTEL_EXPORTER_OTLP_INSECURE", "OTEL_EXPORTER_OTLP_TRACES_INSECURE",
       "OTEL_EXPORTER_OTLP_SPAN_INSECURE"],
     Support::Unsupported("the scheme of the endpoint decides whether TLS is used")),
    (&["OTEL_EXPORTER_OTLP_CLIENT_KEY", "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY",
       "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE"],
     Support::Unsupported("the exporter has no client certificate")),
    (&["OTEL_EXPORTER_ZIPKIN_*", "OTEL_EXPORTER_JAEGER_*"],
     Support::Unsupported("spans are exported as OTLP, which Zipkin's and Jaeger's collectors accept")),
    (&["OTEL_CONFIG_FILE", "OTEL_EXPERIMENTAL_CONFIG_FILE", "OTEL_ENTITIES"],
     Support::Unsupported("only environment variables configure the export")),
    (&["OTEL_SEMCONV_STABILITY_OPT_IN", "OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN"],
     Support::Unsupported("names follow the stable semantic conventions")),
];

/// Largest distance, in edits, of a name that is suggested for an unknown one.
const MAX_EDITS: usize = 5;

/// Returns a warning for each variable that is set and has no effect. A warning does not repeat the value,
/// which may be a secret.
pub(crate) fn ineffective_variables(
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Vec<String> {
    let mut warnings: Vec<_> = variables
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .filter_map(|(name, value)| warning(name.to_str()?, &value.to_string_lossy()))
        .collect();
    warnings.sort();
    warnings
}

fn warning(name: &str, value: &str) -> Option<String> {
    if !name.starts_with("OTEL_") {
        return None;
    }
    match support(name) {
        Some(Support::Honoured) => None,
        Some(Support::Fixed(values)) => {
            let is_fixed = values.iter().any(|known| known.eq_ignore_ascii_case(value.trim()));
            (!is_fixed).then(|| format!("{name}: only {} is supported", values.join(" or ")))
        }
        Some(Support::Unsupported(reason)) => Some(format!("{name}: not supported; {reason}")),
        None => Some(match nearest(name) {
            Some(known) => format!("{name}: unknown variable; did you mean {known}?"),
            None => format!("{name}: unknown variable"),
        }),
    }
}

fn support(name: &str) -> Option<Support> {
    let is_name = |known: &&str| match known.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == *known,
    };
    VARIABLES.iter().find(|(names, _)| names.iter().any(is_name)).map(|(_, support)| *support)
}

/// Returns the honoured variable whose name is the most similar.
fn nearest(name: &str) -> Option<&'static str> {
    VARIABLES
        .iter()
        .filter(|(_, support)| *support == Support::Honoured)
        .flat_map(|(names, _)| *names)
        .map(|known| (strsim::levenshtein(name, known), *known))
        .filter(|(edits, _)| *edits <= MAX_EDITS)
        .min()
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ineffective_variable_is_named() {
        for (name, value, expected) in [
            ("OTEL_SERVICE_NAME", "a", None),
            ("OTEL_METRICS_EXPORTER", "None ", None),
            ("OTEL_METRICS_EXPORTER", "otlp", Some("only prometheus or none is supported")),
            ("OTEL_LOG_LEVEL", "debug", Some("not supported; RUST_LOG filters log lines")),
            ("OTEL_LOG_LEVEL", "", None),
            ("OTEL_BLRP_EXPORT_TIMEOUT", "1", Some("not supported; log lines go to stdout")),
            (
                "OTEL_EXPORTER_OTLP_ENDPONT",
                "secret",
                Some("unknown variable; did you mean OTEL_EXPORTER_OTLP_ENDPOINT?"),
            ),
            (
                "OTEL_EXPORTER_ENDPOINT",
                "secret",
                Some("unknown variable; did you mean OTEL_EXPORTER_OTLP_ENDPOINT?"),
            ),
            (
                "OTEL_TRACE_SAMPLER",
                "secret",
                Some("unknown variable; did you mean OTEL_TRACES_SAMPLER?"),
            ),
            ("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "x", Some("unknown variable")),
            ("PATH", "/bin", None),
        ] {
            let warnings = ineffective_variables([(name.into(), value.into())]);
            let expected: Vec<_> =
                expected.iter().map(|message| format!("{name}: {message}")).collect();
            assert_eq!(warnings, expected, "{name}={value}");
        }
    }

    /// The table of the page has one row for each entry of [`VARIABLES`].
    #[test]
    fn telemetry_doc_lists_variables() {
        let page = include_str!("../../../docs/telemetry.md");
        let (_, section) = page.split_once("### Support of all variables").unwrap();
        let (section, _) = section.split_once("\n### ").unwrap();
        let rows: Vec<_> = section.lines().filter(|line| line.starts_with("| `")).collect();
        let expected: Vec<_> = VARIABLES
            .iter()
            .map(|(names, support)| {
                let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
                let support = match support {
                    Support::Honoured => "honoured".to_owned(),
                    Support::Fixed(values) => format!("only `{}`", values.join("` or `")),
                    Support::Unsupported(reason) => format!("not supported: {reason}"),
                };
                format!("| {} | {support} |", names.join(", "))
            })
            .collect();
        assert_eq!(rows, expected, "{}", expected.join("\n"));
    }
}
