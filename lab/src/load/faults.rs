//! Faults of A for short phases while the load runs, and off again at the end.

use std::fmt::{self, Write};
use std::time::Duration;

use observability::{Error, ErrorKind};
use reqwest::{Client, StatusCode, Url};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use super::request::{client, endpoint};

/// What switching a fault may take.
const TIMEOUT: Duration = Duration::from_secs(2);

/// A stretch of time in which A does one thing wrong, or nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Phase {
    name: &'static str,
    /// What `PUT /faults` is told; `None` switches all faults off.
    plan: Option<&'static str>,
    lasts: Duration,
}

/// What is repeated: short troubles in a minute that is good for the most part.
pub(crate) const PHASES: &[Phase] = &[
    Phase { name: "healthy", plan: None, lasts: Duration::from_secs(45) },
    Phase {
        name: "delay 1500 ms",
        plan: Some(r#"{"delay_ms":1500}"#),
        lasts: Duration::from_secs(5),
    },
    Phase {
        name: "status 500 at 20 %",
        plan: Some(r#"{"error_rate":0.2,"status":500}"#),
        lasts: Duration::from_secs(5),
    },
    Phase { name: "reset", plan: Some(r#"{"reset":true}"#), lasts: Duration::from_secs(5) },
];

/// What `--help` says of them.
pub(crate) fn help() -> String {
    let mut text = "With --service-a, A is over and over:\n".to_owned();
    for Phase { name, plan, lasts } in PHASES {
        let plan = plan.map_or("DELETE /faults".to_owned(), |plan| format!("PUT /faults {plan}"));
        let _ = writeln!(text, "  {:>2} s  {name:<20}{plan}", lasts.as_secs());
    }
    text + "and left without faults at the end. Service A needs FAULTS_ENABLED=true for that (the lab's \
            own has it)."
}

/// The cycle of phases as it runs. Dropping it ends it, faults left as they are; see
/// [`stop`](Self::stop).
#[derive(Debug)]
pub(crate) struct Faults {
    phase: watch::Receiver<&'static str>,
    /// Dropped to stop.
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Switched>,
}

impl Faults {
    /// Switches faults at `service_a` from now on; `warn` is told what does not work.
    pub(crate) fn start(
        service_a: &Url,
        phases: &'static [Phase],
        warn: impl Fn(&str) + Send + 'static,
    ) -> Result<Self, Error> {
        let switch = Switch { client: client(TIMEOUT)?, url: endpoint(service_a, "faults") };
        let (show, phase) = watch::channel("none yet");
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(cycle(switch, phases, show, stopped, warn));
        Ok(Self { phase, stop: Some(stop), task })
    }

    /// What A does wrong now.
    pub(crate) fn phase(&self) -> &'static str {
        *self.phase.borrow()
    }

    /// Begins to switch the faults off.
    pub(crate) fn stop(&mut self) {
        self.stop = None;
    }

    /// Waits until the faults are off, for twice [`TIMEOUT`] at most, and says how it all went.
    pub(crate) async fn stopped(mut self) -> Switched {
        self.stop();
        (&mut self.task).await.unwrap_or_default()
    }
}

impl Drop for Faults {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How often faults were switched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Switched {
    times: u64,
    failed: u64,
    /// Why they may still be on.
    left_on: Option<String>,
}

impl fmt::Display for Switched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "switched {} times", self.times)?;
        if self.failed > 0 {
            write!(f, " and failed to {} times", self.failed)?;
        }
        match &self.left_on {
            None => f.write_str(", off at the end"),
            Some(problem) => write!(f, ", perhaps still on: {problem}"),
        }
    }
}

async fn cycle(
    switch: Switch,
    phases: &'static [Phase],
    show: watch::Sender<&'static str>,
    mut stopped: oneshot::Receiver<()>,
    warn: impl Fn(&str),
) -> Switched {
    let mut switched = Switched::default();
    let mut last_problem = None;
    for phase in phases.iter().cycle() {
        // Whoever stops us waits for the switch that is under way: the last word is then ours.
        let problem = switch.to(phase.plan).await.err();
        switched.times += u64::from(problem.is_none());
        switched.failed += u64::from(problem.is_some());
        show.send_replace(if problem.is_none() { phase.name } else { "not switched" });
        // Said once for as long as it is the same.
        if let Some(problem) = &problem
            && last_problem.as_ref() != Some(problem)
        {
            warn(problem);
        }
        last_problem = problem;
        tokio::select! {
            () = tokio::time::sleep(phase.lasts) => {}
            _ = &mut stopped => break,
        }
    }
    switched.left_on = switch.to(None).await.err();
    switched
}

struct Switch {
    client: Client,
    url: Url,
}

impl Switch {
    async fn to(&self, plan: Option<&'static str>) -> Result<(), String> {
        let request = match plan {
            Some(plan) => self.client.put(self.url.clone()).body(plan),
            None => self.client.delete(self.url.clone()),
        };
        match request.send().await.map(|response| response.status()) {
            Ok(status) if status.is_success() => Ok(()),
            Ok(StatusCode::NOT_FOUND) => {
                Err("A answers 404: is FAULTS_ENABLED=true, and is this its admin address?".into())
            }
            Ok(status) => Err(format!("A answers {status}")),
            Err(error) => Err(format!("no answer from A: {}", ErrorKind::from_reqwest(&error))),
        }
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

    /// A's switch, and what it was told.
    async fn service_a(status: StatusCode) -> (Url, mpsc::UnboundedReceiver<(Method, String)>) {
        let told = async move |State(requests): State<Requests>, method: Method, body: String| {
            let _ = requests.send((method, body));
            status
        };
        let (send, requests) = mpsc::unbounded_channel();
        let router = Router::new().route("/faults", any(told)).with_state(send);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        tokio::spawn(async { axum::serve(listener, router).await });
        (url, requests)
    }

    const SHORT: &[Phase] = &[
        Phase { name: "healthy", plan: None, lasts: Duration::from_millis(1) },
        Phase { name: "bad", plan: Some("{\"reset\":true}"), lasts: Duration::from_millis(1) },
    ];
    const LONG: &[Phase] =
        &[Phase { name: "bad", plan: Some("{}"), lasts: Duration::from_secs(3600) }];

    #[tokio::test]
    async fn phases_cycle() {
        let (url, mut requests) = service_a(StatusCode::OK).await;
        let _faults = Faults::start(&url, SHORT, |_| {}).unwrap();
        for _ in 0..2 {
            assert_eq!(requests.recv().await.unwrap(), (Method::DELETE, String::new()));
            let put = (Method::PUT, "{\"reset\":true}".to_owned());
            assert_eq!(requests.recv().await.unwrap(), put);
        }
    }

    #[tokio::test]
    async fn faults_are_cleared_on_stop() {
        let (url, mut requests) = service_a(StatusCode::OK).await;
        let mut faults = Faults::start(&url, LONG, |_| {}).unwrap();
        faults.phase.changed().await.unwrap();
        assert_eq!(faults.phase(), "bad");
        assert_eq!(faults.stopped().await.to_string(), "switched 1 times, off at the end");
        assert_eq!(requests.recv().await.unwrap().0, Method::PUT);
        assert_eq!(requests.recv().await.unwrap().0, Method::DELETE);
    }

    #[tokio::test]
    async fn switch_failure_warns_once() {
        let (url, mut requests) = service_a(StatusCode::NOT_FOUND).await;
        let (warn, mut warnings) = mpsc::unbounded_channel();
        let warn = move |problem: &str| {
            let _ = warn.send(problem.to_owned());
        };
        let faults = Faults::start(&url, SHORT, warn).unwrap();
        for _ in 0..4 {
            requests.recv().await.unwrap();
        }
        let switched = faults.stopped().await;
        assert!(switched.failed >= 3 && switched.times == 0, "{switched:?}");
        assert!(switched.to_string().contains("perhaps still on: A answers 404"), "{switched}");
        assert!(warnings.recv().await.unwrap().contains("FAULTS_ENABLED"));
        assert_eq!(warnings.recv().await, None);
    }

    #[test]
    fn cycle_takes_one_minute() {
        for plan in PHASES.iter().filter_map(|phase| phase.plan) {
            assert!(serde_json::from_str::<serde_json::Value>(plan).is_ok(), "{plan}");
        }
        assert_eq!(PHASES.iter().map(|phase| phase.lasts).sum::<Duration>().as_secs(), 60);
    }
}
