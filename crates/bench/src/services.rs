//! Services under measurement.

use testkit::{Process, ProcessBuilder};

/// One of the two services.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MeasuredService {
    pub(crate) name: &'static str,
    /// Target of the requests.
    pub(crate) path: &'static str,
}

pub(crate) const SERVICE_A: MeasuredService =
    MeasuredService { name: "a", path: "/echo?msg=hello" };
pub(crate) const SERVICE_B: MeasuredService =
    MeasuredService { name: "b", path: "/call-echo?msg=hello" };

impl MeasuredService {
    /// Returns the command that starts the helper process of `variant`.
    pub(crate) fn command(self, variant: Variant) -> String {
        let program = if variant == BASELINE { "baseline" } else { "service" };
        format!("{program}-{}", self.name)
    }
}

/// Amount of telemetry in a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Variant {
    pub(crate) name: &'static str,
    /// Environment variables that differ from [`FULL`].
    overrides: &'static [(&'static str, &'static str)],
}

/// The same handlers without telemetry.
pub(crate) const BASELINE: Variant = Variant { name: "baseline", overrides: &[] };
/// Every request is traced and exported.
pub(crate) const FULL: Variant = Variant { name: "full", overrides: &[] };
/// One request in a hundred is traced and exported.
pub(crate) const ONE_PERCENT: Variant = Variant {
    name: "one-percent",
    overrides: &[
        ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "0.01"),
    ],
};

/// These variants and those that disable a part of the telemetry.
pub(crate) const VARIANTS: [Variant; 7] = [
    BASELINE,
    FULL,
    ONE_PERCENT,
    Variant { name: "no-log", overrides: &[("RUST_LOG", "info,access=off")] },
    Variant { name: "no-export", overrides: &[("OTEL_TRACES_EXPORTER", "none")] },
    Variant { name: "not-sampled", overrides: &[("OTEL_TRACES_SAMPLER", "always_off")] },
    Variant { name: "no-spans", overrides: &[("OTEL_SDK_DISABLED", "true")] },
];

impl Variant {
    /// Adds the environment variables to `builder`.
    ///
    /// All settings are the defaults except for the queue size. The default of 2,048 spans would overflow
    /// at tens of thousands of spans per second whenever both cores are busy.
    pub(crate) fn configure(self, builder: ProcessBuilder, receiver: &Process) -> ProcessBuilder {
        builder
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url())
            .env("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
            .env("OTEL_BSP_MAX_QUEUE_SIZE", "65536")
            .envs(self.overrides.iter().copied())
    }
}
