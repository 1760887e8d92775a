//! Destination of the traces: the embedded Jaeger, or an external collector if the environment names
//! one.

use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;

use embedded_jaeger::JaegerHandle;
use observability::Error;
use observability::server::ShutdownSignals;

use crate::args::Args;
use crate::port_check::check_addresses;
use crate::terminal::print_status;

/// Destination of the traces.
#[derive(Debug)]
pub(crate) enum TraceBackend {
    /// The embedded Jaeger.
    Embedded(JaegerHandle),
    /// An external collector at this endpoint.
    External(String),
}

impl TraceBackend {
    /// Starts the embedded Jaeger unless the environment names an endpoint.
    pub(crate) async fn start(args: &Args) -> Result<Self, Error> {
        let endpoint = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"]
            .into_iter()
            .find_map(|variable| std::env::var(variable).ok().filter(|value| !value.is_empty()));
        match endpoint {
            Some(endpoint) => Ok(Self::External(strip_credentials(&endpoint).to_owned())),
            None => {
                check_addresses(args.jaeger_addresses())?;
                let jaeger = embedded_jaeger::start(args.jaeger()).await;
                jaeger.map(Self::Embedded).map_err(Error::other)
            }
        }
    }

    /// Environment variables that direct the services to the embedded Jaeger, before others that they
    /// inherit. They inherit the variables of an external collector.
    pub(crate) fn env(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Embedded(jaeger) => vec![
                (
                    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
                    format!("http://{}", jaeger.otlp_grpc_addr()),
                ),
                ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc".to_owned()),
            ],
            Self::External(_) => Vec::new(),
        }
    }

    /// Returns the URL of a trace if the embedded Jaeger stores it.
    pub(crate) fn link(&self, trace_id: &str) -> Option<String> {
        self.ui_addr().map(|ui| format!("http://{ui}/trace/{trace_id}"))
    }

    /// Returns the address of the embedded Jaeger.
    pub(crate) fn ui_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Embedded(jaeger) => Some(jaeger.ui_addr()),
            Self::External(_) => None,
        }
    }

    /// Returns `true` unless the embedded Jaeger lacks the trace.
    pub(crate) fn has_trace(&self, trace_id: &str) -> bool {
        match self {
            Self::Embedded(jaeger) => jaeger.has_trace(trace_id),
            Self::External(_) => true,
        }
    }

    pub(crate) async fn stop(self) {
        if let Self::Embedded(jaeger) = self {
            jaeger.stop().await;
        }
    }
}

impl fmt::Display for TraceBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded(jaeger) => write!(f, "http://{}", jaeger.ui_addr()),
            Self::External(endpoint) => write!(f, "exported to {endpoint}"),
        }
    }
}

/// Runs `lab jaeger`: the embedded Jaeger without the services, until a shutdown signal.
pub(crate) async fn run_standalone(args: impl Iterator<Item = OsString>) -> Result<(), Error> {
    let args = Args::parse(std::iter::once("lab jaeger".into()).chain(args))?;
    check_addresses(args.jaeger_addresses())?;
    let mut signals = ShutdownSignals::new()?;
    let jaeger = embedded_jaeger::start(args.jaeger()).await.map_err(Error::other)?;
    print_status(format_args!(
        "Jaeger UI http://{}, OTLP/gRPC {}, OTLP/HTTP {}",
        jaeger.ui_addr(),
        jaeger.otlp_grpc_addr(),
        jaeger.otlp_http_addr()
    ));
    signals.recv().await;
    jaeger.stop().await;
    Ok(())
}

/// Removes scheme and user info from a URL that has user info.
fn strip_credentials(url: &str) -> &str {
    url.rsplit_once('@').map_or(url, |(_, host)| host)
}

#[cfg(test)]
mod tests {
    use embedded_jaeger::JaegerConfig;

    use super::*;

    #[test]
    fn endpoint_credentials_are_hidden() {
        assert_eq!(strip_credentials("http://user:pw@c:4317"), "c:4317");
        assert_eq!(strip_credentials("http://c:4317"), "http://c:4317");
    }

    #[tokio::test]
    async fn unknown_trace_is_missing() {
        let jaeger = embedded_jaeger::start(JaegerConfig::with_ephemeral_ports()).await.unwrap();
        let traces = TraceBackend::Embedded(jaeger);
        assert!(!traces.has_trace("0af7651916cd43dd8448eb211c80319c"));
        assert!(TraceBackend::External(String::new()).has_trace("1"));
    }
}
