/// Propagators of the specification that are not supported.
const UNSUPPORTED: [&str; 5] = ["b3", "b3multi", "jaeger", "ottrace", "xray"];

/// Headers that continue a trace, the value of `OTEL_PROPAGATORS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Propagators {
    /// `traceparent` and `tracestate`.
    pub(crate) trace_context: bool,
    /// `baggage`.
    pub(crate) baggage: bool,
}

impl Default for Propagators {
    fn default() -> Self {
        Self { trace_context: true, baggage: true }
    }
}

impl Propagators {
    /// Parses a list such as `tracecontext,baggage`. Calls `warn` for each name that is not supported, with
    /// the name only if the specification has it.
    pub(super) fn parse(list: &str, mut warn: impl FnMut(Option<&'static str>)) -> Self {
        let mut propagators = Self { trace_context: false, baggage: false };
        for name in list.split(',').map(str::trim) {
            let name = name.to_ascii_lowercase();
            match name.as_str() {
                "tracecontext" => propagators.trace_context = true,
                "baggage" => propagators.baggage = true,
                "none" => return Self { trace_context: false, baggage: false },
                _ => warn(UNSUPPORTED.into_iter().find(|known| *known == name)),
            }
        }
        propagators
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsupported_propagator_is_named() {
        for (list, trace_context, baggage, unsupported) in [
            ("tracecontext,baggage", true, true, ""),
            (" TraceContext ", true, false, ""),
            ("baggage,B3", false, true, "b3"),
            ("baggage,s3cret", false, true, "unknown"),
            ("tracecontext,none", false, false, ""),
        ] {
            let mut warned = String::new();
            let parsed =
                Propagators::parse(list, |name| warned.push_str(name.unwrap_or("unknown")));
            assert_eq!(parsed, Propagators { trace_context, baggage }, "{list}");
            assert_eq!(warned, unsupported, "{list}");
        }
    }
}
