//! Services under measurement.

use clap::ValueEnum;
use testkit::ProcessBuilder;

use crate::load::Protocol;

/// A helper process that serves the same handlers with telemetry and without.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum App {
    /// Service A.
    A,
    /// Service B.
    B,
    /// Service A's handler behind `axum::serve`, with the layer alone.
    Layer,
    /// 50 routes with path parameters and JSON bodies.
    Api,
    /// A handler that computes for about 100 µs.
    Compute,
}

impl App {
    /// Returns the name on the command line.
    pub(crate) fn name(self) -> String {
        let value = self.to_possible_value();
        value.map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

/// A service under measurement.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MeasuredService {
    pub(crate) name: &'static str,
    pub(crate) app: App,
    /// Target of the requests.
    pub(crate) path: &'static str,
    pub(crate) protocol: Protocol,
    /// Highest ratios of CPU time to the baseline that are aimed at, with all requests traced and with 1 %.
    pub(crate) goals: Option<[f64; 2]>,
}

pub(crate) const SERVICE_A: MeasuredService = MeasuredService {
    name: "service-a",
    app: App::A,
    path: "/echo?msg=hello",
    protocol: Protocol::Http1,
    goals: Some([1.40, 1.25]),
};
pub(crate) const SERVICE_B: MeasuredService = MeasuredService {
    name: "service-b",
    app: App::B,
    path: "/call-echo?msg=hello",
    goals: Some([1.25, 1.12]),
    ..SERVICE_A
};

/// The services that `compare` measures.
pub(crate) const SERVICES: [MeasuredService; 6] = [
    SERVICE_A,
    SERVICE_B,
    MeasuredService {
        name: "service-a-http2",
        protocol: Protocol::Http2,
        goals: None,
        ..SERVICE_A
    },
    MeasuredService { name: "layer", app: App::Layer, goals: None, ..SERVICE_A },
    MeasuredService { name: "api", app: App::Api, path: "/r/7/items/42", goals: None, ..SERVICE_A },
    MeasuredService {
        name: "compute",
        app: App::Compute,
        path: "/compute",
        goals: Some([1.03, 1.03]),
        ..SERVICE_A
    },
];

impl MeasuredService {
    /// Returns the arguments of the helper process of `variant`.
    pub(crate) fn command(self, variant: Variant) -> [String; 2] {
        let command = match variant {
            TRACE_LAYER => "trace-layer",
            Variant { is_instrumented: true, .. } => "instrumented",
            _ => "baseline",
        };
        [command.to_owned(), self.app.name()]
    }
}

/// Amount of telemetry in a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Variant {
    pub(crate) name: &'static str,
    /// `true` if the process has the telemetry of the library, which counts its spans.
    pub(crate) is_instrumented: bool,
    /// Environment variables that differ from [`FULL`].
    overrides: &'static [(&'static str, &'static str)],
}

/// The same handlers without telemetry.
pub(crate) const BASELINE: Variant =
    Variant { name: "baseline", is_instrumented: false, overrides: &[] };
/// The same handlers with the layer of [`crate::trace_layer`].
const TRACE_LAYER: Variant = Variant { name: "trace-layer", ..BASELINE };
/// Every request is traced and exported.
pub(crate) const FULL: Variant = Variant { name: "full", is_instrumented: true, overrides: &[] };
/// One request in a hundred is traced and exported.
pub(crate) const ONE_PERCENT: Variant = Variant {
    name: "one-percent",
    overrides: &[
        ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "0.01"),
    ],
    ..FULL
};
/// The peer without telemetry.
pub(crate) const BARE: Variant = Variant { name: "bare", ..BASELINE };
/// The peer with the telemetry of other crates, which logs and traces nothing by default.
pub(crate) const TYPICAL: Variant =
    Variant { name: "typical", overrides: &[("RUST_LOG", "info")], ..BASELINE };

/// These variants and those that disable a part of the telemetry.
pub(crate) const VARIANTS: [Variant; 8] = [
    BASELINE,
    TRACE_LAYER,
    FULL,
    ONE_PERCENT,
    Variant { name: "no-log", overrides: &[("RUST_LOG", "info,access=off")], ..FULL },
    Variant { name: "no-export", overrides: &[("OTEL_TRACES_EXPORTER", "none")], ..FULL },
    Variant { name: "not-sampled", overrides: &[("OTEL_TRACES_SAMPLER", "always_off")], ..FULL },
    Variant { name: "no-spans", overrides: &[("OTEL_SDK_DISABLED", "true")], ..FULL },
];

impl Variant {
    /// Adds the environment variables to `builder`.
    ///
    /// All settings are the defaults except for the queue size. The default of 2,048 spans would overflow
    /// at tens of thousands of spans per second whenever both cores are busy.
    pub(crate) fn configure(self, builder: ProcessBuilder, endpoint: &str) -> ProcessBuilder {
        builder
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
            .env("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
            .env("OTEL_BSP_MAX_QUEUE_SIZE", "65536")
            .envs(self.overrides.iter().copied())
    }
}
