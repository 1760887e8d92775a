//! Where the traces go: to a Jaeger of the lab's own, or where `OTEL_EXPORTER_OTLP_ENDPOINT` says.

use std::ffi::OsString;
use std::fmt;

use embedded_jaeger::{JaegerConfig, JaegerHandle};
use observability::Error;
use observability::server::ShutdownSignals;

/// The destination of the traces.
#[derive(Debug)]
pub(crate) enum Traces {
    /// The lab's own Jaeger.
    Embedded(Option<JaegerHandle>),
    /// Somebody else's, at this host.
    Exported(String),
}

impl Traces {
    /// Starts the lab's own Jaeger unless the environment names another place.
    pub(crate) async fn start(settings: &JaegerConfig) -> Result<Self, Error> {
        let elsewhere = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"]
            .into_iter()
            .find_map(|variable| std::env::var(variable).ok().filter(|value| !value.is_empty()));
        match elsewhere {
            Some(endpoint) => Ok(Self::Exported(without_credentials(&endpoint).to_owned())),
            None => Ok(Self::Embedded(Some(start(settings.clone()).await?))),
        }
    }

    /// What the services have to be told.
    pub(crate) fn env(&self) -> Vec<(&'static str, OsString)> {
        match self {
            Self::Embedded(Some(jaeger)) => vec![
                (
                    "OTEL_EXPORTER_OTLP_ENDPOINT",
                    format!("http://{}", jaeger.otlp_grpc_addr()).into(),
                ),
                ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc".into()),
            ],
            _ => Vec::new(),
        }
    }

    /// Opens one trace.
    pub(crate) fn link(&self, trace_id: &str) -> Option<String> {
        match self {
            Self::Embedded(Some(jaeger)) => {
                Some(format!("http://{}/trace/{trace_id}", jaeger.ui_addr()))
            }
            _ => None,
        }
    }

    pub(crate) async fn stop(&mut self) {
        if let Self::Embedded(jaeger) = self
            && let Some(jaeger) = jaeger.take()
        {
            jaeger.stop().await;
        }
    }
}

impl fmt::Display for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded(Some(jaeger)) => write!(f, "http://{}", jaeger.ui_addr()),
            Self::Embedded(None) => f.write_str("stopped"),
            Self::Exported(host) => write!(f, "exported to {host}"),
        }
    }
}

/// `lab jaeger`: the Jaeger by itself, until told to stop.
pub(crate) async fn alone(args: impl Iterator<Item = OsString>) -> Result<(), Error> {
    let args = std::iter::once("lab jaeger".into()).chain(args);
    let settings = crate::settings::Settings::from_args(args)?;
    let mut signals = ShutdownSignals::new()?;
    let jaeger = start(settings.jaeger).await?;
    let screen = crate::screen::Screen::new();
    screen.say(format_args!(
        "Jaeger UI http://{}, OTLP over gRPC {}, over HTTP {}",
        jaeger.ui_addr(),
        jaeger.otlp_grpc_addr(),
        jaeger.otlp_http_addr()
    ));
    signals.recv().await;
    jaeger.stop().await;
    Ok(())
}

async fn start(settings: JaegerConfig) -> Result<JaegerHandle, Error> {
    embedded_jaeger::start(settings)
        .await
        .map_err(|error| Error::other(format!("lab: Jaeger did not start: {error}")))
}

/// A URL without its user info.
fn without_credentials(url: &str) -> &str {
    url.rsplit_once('@').map_or(url, |(_, host)| host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_not_shown() {
        assert_eq!(without_credentials("http://user:pw@c:4317"), "c:4317");
        assert_eq!(without_credentials("http://c:4317"), "http://c:4317");
    }
}
