//! What is measured: the two services, bare and as they are.

use std::fmt;

use crate::Result;
use crate::process::Process;

/// What runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Variant {
    /// The same handlers with nothing around them.
    Bare,
    /// Every request traced and exported.
    Full,
    /// One request in a hundred traced and exported.
    OnePercent,
}

impl Variant {
    pub(crate) const ALL: [Self; 3] = [Self::Bare, Self::Full, Self::OnePercent];
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Bare => "bare",
            Self::Full => "ours, 100 %",
            Self::OnePercent => "ours, 1 %",
        })
    }
}

/// One of the two services, with the path that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    A,
    B,
}

impl Service {
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::A => "/echo?msg=hello",
            Self::B => "/call-echo?msg=hello",
        }
    }

    /// Starts it. `service_a` is the one that B calls, `receiver` where spans go.
    pub(crate) fn start(
        self,
        variant: Variant,
        service_a: &Process,
        receiver: &str,
    ) -> Result<Process> {
        let url = service_a.url();
        match (self, variant) {
            (Self::A, Variant::Bare) => Process::this(&["bare-a"], &[]),
            (Self::B, Variant::Bare) => Process::this(&["bare-b", &url], &[]),
            (Self::A, _) => Process::this(&["service-a"], &variables(variant, receiver)),
            (Self::B, _) => {
                let mut variables = variables(variant, receiver);
                variables.push(("SERVICE_A_URL", url));
                Process::this(&["service-b"], &variables)
            }
        }
    }
}

/// The settings of ours: the defaults, but for the queue. At tens of thousands of spans a second the
/// specification's 2,048 would overflow whenever the two cores are busy.
pub(crate) fn variables(variant: Variant, receiver: &str) -> Vec<(&'static str, String)> {
    let mut variables = vec![
        ("LISTEN_ADDR", "127.0.0.1:0".to_owned()),
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
