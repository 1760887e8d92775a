//! `lab load` as a process, against a service B of the test's own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, Uri, header::CONTENT_LENGTH};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::net::{TcpListener, TcpSocket};
use tokio::process::{Child, ChildStderr, Command};
use tokio::sync::watch;

/// What anything here may take before it counts as hung.
const LIMIT: Duration = Duration::from_secs(60);

const OK: &str = r#"{"service_a":{"echo":"load"},"service_b":"ok"}"#;

#[tokio::test]
async fn stalled_server_does_not_slow_pacer() {
    let b = Gated::start().await;
    let mut load = Load::start(&b.url, &["--rate", "100", "--duration", "1s", "--timeout", "50s"]);
    // All of them arrive though none is answered.
    b.arrived(100).await;
    load.said("done, waiting for 100 in flight").await;
    b.open();
    let (status, report) = load.end().await;
    assert!(status.success(), "{status}");
    has(&report, "requests   100 sent of 100 due\n");
    has(&report, "  ok                    100   100.00 %\n");
    // The first was due a second before the gate opened, the one in the middle half a second: seen
    // from the last one alone, the server would look fast.
    let [p50, .., max] = latencies(&report, "ok");
    assert!(p50 >= 490.0 && max >= 990.0, "{report}");
    let rate = report.split_once("rate       ").unwrap().1.split_once("/s sent").unwrap().0;
    // Nothing makes it send more; a busy machine may make the run longer.
    assert!((50.0..=100.0).contains(&rate.parse().unwrap()), "{report}");
}

#[tokio::test]
async fn what_is_over_the_bound_is_counted() {
    let b = Gated::start().await;
    let flags = ["--rate", "100", "--duration", "1s", "--timeout", "50s", "--max-in-flight", "5"];
    let mut load = Load::start(&b.url, &flags);
    load.said("done, waiting for 5 in flight").await;
    b.open();
    let (status, report) = load.end().await;
    assert!(status.success(), "{status}");
    has(&report, "requests   5 sent of 100 due; 95 not sent, with 5 in flight");
    has(&report, "  ok                      5   100.00 %\n");
}

#[tokio::test]
async fn outcomes_are_counted_by_kind() {
    let n = Arc::new(AtomicUsize::new(0));
    let answers = [
        (StatusCode::OK, OK),
        (StatusCode::SERVICE_UNAVAILABLE, r#"{"error":"timeout"}"#),
        (StatusCode::SERVICE_UNAVAILABLE, r#"{"error":"refused"}"#),
        (StatusCode::SERVICE_UNAVAILABLE, r#"{"error":"500","http_status":502}"#),
        (StatusCode::SERVICE_UNAVAILABLE, r#"{"error":"overload"}"#),
        (StatusCode::NOT_FOUND, "not found"),
        (StatusCode::OK, "garbage"),
    ];
    let answer = async move || match answers.get(n.fetch_add(1, Ordering::Relaxed) % 8) {
        Some(answer) => answer.into_response(),
        // More is announced than comes, so the connection is closed in its midst.
        None => {
            let pieces = [Ok("{"), Err(std::io::Error::other("broken"))];
            let broken = Body::from_stream(futures_util::stream::iter(pieces));
            ([(CONTENT_LENGTH, "100")], broken).into_response()
        }
    };
    let url = serve(Router::new().route("/call-echo", get(answer))).await;
    let (status, report) = Load::start(&url, &["--rate", "80", "--duration", "1s"]).end().await;
    assert!(status.success(), "{status}");
    has(&report, "requests   80 sent of 80 due\n");
    let kinds =
        ["ok", "timeout", "refused", "500", "overload", "B: status 404", "B: decode", "B: reset"];
    for kind in kinds {
        has(&report, &format!("  {kind:<15}        10    12.50 %\n"));
    }
    assert_eq!(report.split_once("outcomes\n").unwrap().1.lines().count(), kinds.len());
}

#[tokio::test]
async fn request_timeout_is_attributed_to_b() {
    let b = Gated::start().await;
    let flags = ["--rate", "20", "--duration", "200ms", "--timeout", "100ms"];
    let mut load = Load::start(&b.url, &flags);
    let complaint = load.said("never answered").await;
    assert!(complaint.contains(&b.url), "{complaint}");
    let (status, report) = load.end().await;
    assert_eq!(status.code(), Some(1));
    has(&report, "  B: timeout              4   100.00 %\n");
    assert!(latencies(&report, "all")[0] >= 100.0, "{report}");
}

#[tokio::test]
async fn without_a_service_it_says_so() {
    // Bound and not listening: the port is ours, and it refuses.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}", socket.local_addr().unwrap());
    let mut load = Load::start(&url, &["--rate", "50", "--duration", "100ms"]);
    let complaint = load.said("never answered").await;
    assert_eq!(
        complaint,
        format!(
            "lab load: service B never answered at {url}; is it running? `cargo run` starts it"
        )
    );
    let (status, report) = load.end().await;
    assert_eq!(status.code(), Some(1));
    has(&report, "  B: refused              5   100.00 %\n");
}

#[tokio::test]
async fn bad_settings_are_named_at_once() {
    let mut load = Load::start("ftp://b", &["--rate", "0"]);
    load.said("lab load: 2 invalid settings").await;
    load.said("LOAD_TARGET (--target)").await;
    load.said("LOAD_RATE (--rate)").await;
    let (status, report) = load.end().await;
    assert_eq!((status.code(), report.as_str()), (Some(2), ""));
}

#[tokio::test]
async fn closed_stdout_is_ignored() {
    let b = Gated::start().await;
    b.open();
    let mut load = Load::start(&b.url, &["--rate", "20", "--duration", "100ms"]);
    drop(load.process.stdout.take());
    assert!(load.end().await.0.success());
}

#[cfg(unix)]
#[tokio::test]
async fn sigterm_reports_and_clears_faults() {
    let b = Gated::start().await;
    b.open();
    let (told, mut faults) = tokio::sync::mpsc::unbounded_channel();
    let switch = move |method: axum::http::Method| async move {
        let _ = told.send(method);
    };
    let a = serve(Router::new().route("/faults", axum::routing::any(switch))).await;

    let mut load = Load::start(&b.url, &["--rate", "100", "--service-a", &a]);
    let greeting = load.said("100.0 requests/s to").await;
    assert!(greeting.ends_with("/call-echo until stopped"), "{greeting}");
    b.arrived(20).await;
    // The cycle begins with A in good order.
    assert_eq!(faults.recv().await.unwrap().as_str(), "DELETE");
    load.terminate();
    let (status, report) = load.end().await;
    assert_eq!(status.code(), Some(0));
    has(&report, "stopped by SIGTERM after");
    let count = b.count();
    has(&report, &format!("requests   {count} sent of {count} due\n"));
    has(&report, &format!("  ok              {count:>9}   100.00 %\n"));
    has(&report, "faults     switched 1 times, off at the end\n");
    assert_eq!(faults.recv().await.unwrap().as_str(), "DELETE");
    assert!(faults.try_recv().is_err());
}

#[cfg(unix)]
#[tokio::test]
async fn second_signal_aborts_requests() {
    let b = Gated::start().await;
    let mut load = Load::start(&b.url, &["--rate", "1000", "--duration", "1h", "--timeout", "1h"]);
    b.arrived(3).await;
    load.terminate();
    load.said("stopped by SIGTERM, waiting for").await;
    load.terminate();
    let (status, report) = load.end().await;
    assert_eq!(status.code(), Some(0));
    has(&report, " cut off at the end\n");
}

/// A service B that answers only once its gate is open.
struct Gated {
    url: String,
    arrived: watch::Receiver<usize>,
    gate: watch::Sender<bool>,
}

impl Gated {
    async fn start() -> Self {
        let (count, arrived) = watch::channel(0);
        let (gate, opened) = watch::channel(false);
        let answer = move |uri: Uri, headers: HeaderMap| {
            assert_eq!(uri.query(), Some("msg=load"));
            assert!(!headers.contains_key("traceparent"));
            count.send_modify(|count| *count += 1);
            let mut opened = opened.clone();
            async move {
                let _ = opened.wait_for(|open| *open).await;
                OK
            }
        };
        let url = serve(Router::new().route("/call-echo", get(answer))).await;
        Self { url, arrived, gate }
    }

    fn open(&self) {
        self.gate.send_replace(true);
    }

    fn count(&self) -> usize {
        *self.arrived.borrow()
    }

    /// Waits until that many requests have arrived.
    async fn arrived(&self, n: usize) {
        let mut arrived = self.arrived.clone();
        let waited = tokio::time::timeout(LIMIT, arrived.wait_for(|count| *count >= n)).await;
        assert!(waited.is_ok(), "only {} of {n} requests arrived", self.count());
    }
}

/// Serves on a free port for as long as the test runs.
async fn serve(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async { axum::serve(listener, router).await });
    url
}

/// `lab load` as it runs.
struct Load {
    process: Child,
    stderr: Lines<BufReader<ChildStderr>>,
}

impl Load {
    fn start(target: &str, flags: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("LOAD_") {
                command.env_remove(name);
            }
        }
        let mut process = command
            .args(["load", "--target", target])
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let stderr = BufReader::new(process.stderr.take().unwrap()).lines();
        Self { process, stderr }
    }

    /// Waits for a line with that text on stderr.
    async fn said(&mut self, text: &str) -> String {
        let wait = async {
            while let Some(line) = self.stderr.next_line().await.unwrap() {
                if line.contains(text) {
                    return line;
                }
            }
            panic!("it never said {text:?}");
        };
        tokio::time::timeout(LIMIT, wait).await.unwrap_or_else(|_| panic!("no {text:?}"))
    }

    #[cfg(unix)]
    fn terminate(&self) {
        let pid = i32::try_from(self.process.id().unwrap()).unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    /// Waits for its end; gives its report.
    async fn end(mut self) -> (ExitStatus, String) {
        let mut report = String::new();
        let stdout = self.process.stdout.take();
        let end = async {
            if let Some(mut stdout) = stdout {
                stdout.read_to_string(&mut report).await.unwrap();
            }
            self.process.wait().await.unwrap()
        };
        let status = tokio::time::timeout(LIMIT, end).await.expect("it does not end");
        (status, report)
    }
}

#[track_caller]
fn has(report: &str, text: &str) {
    assert!(report.contains(text), "no {text:?} in\n{report}");
}

/// A row of the report's latencies in milliseconds: p50, p90, p95, p99, p99.9, max.
fn latencies(report: &str, row: &str) -> [f64; 6] {
    let row = format!("  {row} ");
    let line = report.lines().find(|line| line.starts_with(&row)).unwrap();
    let values: Vec<f64> = line.split_whitespace().skip(1).map(|ms| ms.parse().unwrap()).collect();
    values.try_into().unwrap()
}
