//! Services under measurement.

use std::fmt;

/// Amount of telemetry in a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Variant {
    /// The same handlers without telemetry.
    Baseline,
    /// Every request is traced and exported.
    Full,
    /// One request in a hundred is traced and exported.
    OnePercent,
}

impl Variant {
    pub(crate) const ALL: [Self; 3] = [Self::Baseline, Self::Full, Self::OnePercent];
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Baseline => "baseline",
            Self::Full => "100 % traced",
            Self::OnePercent => "1 % traced",
        })
    }
}

/// One of the two services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MeasuredService {
    A,
    B,
}

impl MeasuredService {
    /// Returns the target of the requests.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::A => "/echo?msg=hello",
            Self::B => "/call-echo?msg=hello",
        }
    }

    /// Returns the command that starts the helper process of `variant`.
    pub(crate) fn command(self, variant: Variant) -> &'static str {
        match (self, variant) {
            (Self::A, Variant::Baseline) => "baseline-a",
            (Self::B, Variant::Baseline) => "baseline-b",
            (Self::A, _) => "service-a",
            (Self::B, _) => "service-b",
        }
    }
}

/// Returns the environment variables of `variant`.
///
/// All settings are the defaults except for the queue size. The default of 2,048 spans would overflow
/// at tens of thousands of spans per second whenever both cores are busy.
pub(crate) fn variables(variant: Variant, receiver: &str) -> Vec<(&'static str, String)> {
    let mut variables = vec![
        ("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.to_owned()),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc".to_owned()),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "65536".to_owned()),
    ];
    if variant == Variant::OnePercent {
        variables.push(("OTEL_TRACES_SAMPLER", "parentbased_traceidratio".to_owned()));
        variables.push(("OTEL_TRACES_SAMPLER_ARG", "0.01".to_owned()));
    }
    variables
}
