//! Cycle of faults that are injected into service A during the load.

use std::fmt;
use std::time::Duration;

use observability::{Error, ErrorKind};
use reqwest::{Client, StatusCode, Url};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use super::client::{build_client, endpoint};

/// Timeout of a request to `/faults`.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Period during which service A has one fault, or none if `config` is empty.
#[derive(Debug, Clone, Copy)]
pub(super) struct Phase {
    name: &'static str,
    config: &'static str,
    ms: u64,
}

/// Default cycle. The help of `lab load` describes it.
pub(super) const PHASES: &[Phase] = &[
    Phase { name: "healthy", config: "", ms: 45_000 },
    Phase { name: "delay 1500 ms", config: r#"{"delay_ms":1500}"#, ms: 5_000 },
    Phase { name: "status 500 at 20 %", config: r#"{"error_rate":0.2,"status":500}"#, ms: 5_000 },
    Phase { name: "reset", config: r#"{"reset":true}"#, ms: 5_000 },
];

/// Running fault cycle. Dropping it stops it in the background.
#[derive(Debug)]
pub(super) struct FaultCycle {
    phase: watch::Receiver<&'static str>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<FaultCycleSummary>,
}

impl FaultCycle {
    /// Starts the cycle. `warn` receives an error once while it persists.
    pub(super) fn start(
        base_url: &Url,
        phases: &'static [Phase],
        warn: impl Fn(&str) + Send + 'static,
    ) -> Result<Self, Error> {
        let (client, url) = (build_client(TIMEOUT)?, endpoint(base_url, "faults"));
        let (current, phase) = watch::channel("none");
        let (stop, mut stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let mut summary = FaultCycleSummary::default();
            let mut last_error = None;
            for phase in phases.iter().cycle() {
                // A stop does not cancel this request, which could then overtake the final one.
                let error = set_fault(&client, &url, phase.config).await.err();
                summary.switches += u64::from(error.is_none());
                summary.failures += u64::from(error.is_some());
                current.send_replace(if error.is_none() { phase.name } else { "unknown" });
                if let Some(error) = error.as_ref().filter(|_| error != last_error) {
                    warn(error);
                }
                last_error = error;
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_millis(phase.ms)) => {}
                    _ = &mut stopped => break,
                }
            }
            summary.clear_error = set_fault(&client, &url, "").await.err();
            summary
        });
        Ok(Self { phase, stop, task })
    }

    /// Name of the current phase.
    pub(super) fn phase(&self) -> &'static str {
        *self.phase.borrow()
    }

    /// Clears the faults. Takes at most twice [`TIMEOUT`].
    pub(super) async fn stop(self) -> FaultCycleSummary {
        drop(self.stop);
        self.task.await.unwrap_or_default()
    }
}

/// Result of a fault cycle.
#[derive(Debug, Default)]
pub(super) struct FaultCycleSummary {
    switches: u64,
    failures: u64,
    clear_error: Option<String>,
}

impl fmt::Display for FaultCycleSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { switches, failures, clear_error } = self;
        write!(f, "{switches} switches, {failures} failures, ")?;
        match clear_error {
            None => f.write_str("off at the end"),
            Some(error) => write!(f, "possibly still on: {error}"),
        }
    }
}

async fn set_fault(client: &Client, url: &Url, config: &'static str) -> Result<(), String> {
    let request = match config {
        "" => client.delete(url.clone()),
        config => client.put(url.clone()).body(config),
    };
    let status = request.send().await.map(|response| response.status());
    match status.map_err(|error| ErrorKind::from_reqwest(&error)) {
        Ok(status) if status.is_success() => Ok(()),
        Ok(StatusCode::NOT_FOUND) => {
            Err("A responded with 404: is FAULTS_ENABLED=true, and is this its admin address?"
                .into())
        }
        Ok(status) => Err(format!("A responded with {status}")),
        Err(kind) => Err(format!("no response from A: {kind}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::extract::State;
    use axum::http::Method;
    use axum::routing::any;
    use tokio::sync::mpsc;

    type Requests = mpsc::UnboundedSender<(Method, String)>;

    /// Starts a fake `/faults` and returns its base URL and the requests that it receives.
    async fn start_service_a(
        status: StatusCode,
    ) -> (Url, mpsc::UnboundedReceiver<(Method, String)>) {
        let handler =
            async move |State(requests): State<Requests>, method: Method, body: String| {
                let _ = requests.send((method, body));
                status
            };
        let (sender, requests) = mpsc::unbounded_channel();
        let router = Router::new().route("/faults", any(handler)).with_state(sender);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        tokio::spawn(async { axum::serve(listener, router).await });
        (url, requests)
    }

    const SHORT: &[Phase] = &[
        Phase { name: "healthy", config: "", ms: 1 },
        Phase { name: "bad", config: r#"{"reset":true}"#, ms: 1 },
    ];
    const LONG: &[Phase] = &[Phase { name: "bad", config: "{}", ms: 3_600_000 }];

    #[tokio::test]
    async fn phases_cycle() {
        let (url, mut requests) = start_service_a(StatusCode::OK).await;
        let _faults = FaultCycle::start(&url, SHORT, |_| {}).unwrap();
        for _ in 0..2 {
            assert_eq!(requests.recv().await.unwrap(), (Method::DELETE, String::new()));
            let put = (Method::PUT, r#"{"reset":true}"#.to_owned());
            assert_eq!(requests.recv().await.unwrap(), put);
        }
    }

    #[tokio::test]
    async fn faults_are_cleared_on_stop() {
        let (url, mut requests) = start_service_a(StatusCode::OK).await;
        let mut faults = FaultCycle::start(&url, LONG, |_| {}).unwrap();
        faults.phase.changed().await.unwrap();
        assert_eq!(faults.phase(), "bad");
        assert_eq!(faults.stop().await.to_string(), "1 switches, 0 failures, off at the end");
        assert_eq!(requests.recv().await.unwrap().0, Method::PUT);
        assert_eq!(requests.recv().await.unwrap().0, Method::DELETE);
    }

    #[tokio::test]
    async fn switch_failure_warns_once() {
        let (url, mut requests) = start_service_a(StatusCode::NOT_FOUND).await;
        let (warn, mut warnings) = mpsc::unbounded_channel();
        let warn = move |error: &str| {
            let _ = warn.send(error.to_owned());
        };
        let faults = FaultCycle::start(&url, SHORT, warn).unwrap();
        for _ in 0..4 {
            requests.recv().await.unwrap();
        }
        let summary = faults.stop().await;
        assert!(summary.failures >= 3 && summary.switches == 0, "{summary:?}");
        let text = summary.to_string();
        assert!(text.contains("possibly still on: A responded with 404"), "{text}");
        assert!(warnings.recv().await.unwrap().contains("FAULTS_ENABLED"));
        assert_eq!(warnings.recv().await, None);
    }

    #[test]
    fn cycle_takes_one_minute() {
        for Phase { config, .. } in PHASES.iter().filter(|phase| !phase.config.is_empty()) {
            assert!(serde_json::from_str::<serde_json::Value>(config).is_ok(), "{config}");
        }
        assert_eq!(PHASES.iter().map(|phase| phase.ms).sum::<u64>(), 60_000);
    }
}
