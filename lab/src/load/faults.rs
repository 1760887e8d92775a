//! Cycle of faults that are injected into service A during the load.

use std::time::Duration;

use reqwest::{Client, Url};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::fault_switch::set_fault;

/// Period during which service A has one fault, or none if `config` is empty.
#[derive(Debug, Clone, Copy)]
pub(super) struct Phase {
    name: &'static str,
    config: &'static str,
    ms: u64,
}

/// Default cycle. The help of `lab load` describes it. The faults expire if the load is killed.
pub(super) const PHASES: &[Phase] = &[
    Phase { name: "healthy", config: "", ms: 45_000 },
    Phase { name: "delay", config: r#"{"delay_ms":1500,"ttl_ms":10000}"#, ms: 5_000 },
    Phase {
        name: "status 500",
        config: r#"{"error_rate":0.2,"status":500,"ttl_ms":10000}"#,
        ms: 5_000,
    },
    Phase { name: "reset", config: r#"{"reset":true,"ttl_ms":10000}"#, ms: 5_000 },
];

/// Running fault cycle. Dropping it stops it in the background.
#[derive(Debug)]
pub(super) struct FaultCycle {
    /// Name of the current phase.
    pub(super) phase: watch::Receiver<&'static str>,
    task: JoinHandle<String>,
}

impl FaultCycle {
    /// Starts the cycle with requests to `url`. `warn` receives an error once while it persists.
    pub(super) fn start(
        client: Client,
        url: Url,
        phases: &'static [Phase],
        warn: impl Fn(&str) + Send + 'static,
    ) -> Self {
        let (current, phase) = watch::channel("none");
        let task = tokio::spawn(async move {
            let (mut switches, mut failures) = (0, 0);
            let mut last_result = Ok(());
            for phase in phases.iter().cycle() {
                // A stop does not cancel this request, which could then overtake the final one.
                let result = set_fault(&client, &url, phase.config).await;
                current.send_replace(if result.is_ok() { phase.name } else { "unknown" });
                match &result {
                    Ok(()) => switches += 1,
                    Err(error) => {
                        failures += 1;
                        if result != last_result {
                            warn(error);
                        }
                    }
                }
                last_result = result;
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_millis(phase.ms)) => {}
                    () = current.closed() => break,
                }
            }
            let end = match set_fault(&client, &url, "").await {
                Ok(()) => "off at the end".to_owned(),
                Err(error) => format!("possibly still on: {error}"),
            };
            format!("{switches} switches, {failures} failures, {end}")
        });
        Self { phase, task }
    }

    /// Clears the faults and returns a summary. Takes at most twice [`TIMEOUT`](crate::fault_switch::TIMEOUT).
    pub(super) async fn stop(self) -> String {
        drop(self.phase);
        self.task.await.unwrap_or_else(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault_switch::TIMEOUT;
    use crate::http::build_client;
    use axum::Router;
    use axum::extract::State;
    use axum::http::{Method, StatusCode};
    use axum::routing::any;
    use tokio::sync::mpsc;

    type Requests = mpsc::UnboundedSender<(Method, String)>;

    /// Starts a fake `/faults` and returns its URL and the requests that it receives.
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
        let url = format!("http://{}/faults", listener.local_addr().unwrap()).parse().unwrap();
        tokio::spawn(async { axum::serve(listener, router).await });
        (url, requests)
    }

    const SHORT: &[Phase] = &[
        Phase { name: "healthy", config: "", ms: 1 },
        Phase { name: "bad", config: r#"{"reset":true}"#, ms: 1 },
    ];
    fn client() -> Client {
        build_client(TIMEOUT).unwrap()
    }

    const LONG: &[Phase] = &[Phase { name: "bad", config: "{}", ms: 3_600_000 }];

    #[tokio::test]
    async fn phases_cycle() {
        let (url, mut requests) = start_service_a(StatusCode::OK).await;
        let _faults = FaultCycle::start(client(), url, SHORT, |_| {});
        for _ in 0..2 {
            assert_eq!(requests.recv().await.unwrap(), (Method::DELETE, String::new()));
            let put = (Method::PUT, r#"{"reset":true}"#.to_owned());
            assert_eq!(requests.recv().await.unwrap(), put);
        }
    }

    #[tokio::test]
    async fn faults_are_cleared_on_stop() {
        let (url, mut requests) = start_service_a(StatusCode::OK).await;
        let mut faults = FaultCycle::start(client(), url, LONG, |_| {});
        faults.phase.changed().await.unwrap();
        assert_eq!(*faults.phase.borrow(), "bad");
        assert_eq!(faults.stop().await, "1 switches, 0 failures, off at the end");
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
        let faults = FaultCycle::start(client(), url, SHORT, warn);
        for _ in 0..4 {
            requests.recv().await.unwrap();
        }
        let summary = faults.stop().await;
        let failures = summary.strip_prefix("0 switches, ").unwrap().split(' ').next().unwrap();
        assert!(failures.parse::<u64>().unwrap() >= 3, "{summary}");
        assert!(summary.contains("possibly still on: A responded with 404"), "{summary}");
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
