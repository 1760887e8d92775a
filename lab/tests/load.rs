//! Tests of `lab load` as a process against a fake service B.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test helpers")]

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

/// Timeout of each wait.
const TEST_TIMEOUT: Duration = Duration::from_secs(60);

const OK: &str = r#"{"service_a":{"echo":"load"},"service_b":"ok"}"#;

/// Requests are sent at the configured rate although B does not respond, and their latencies include
/// the whole stall.
#[tokio::test]
async fn stalled_server_does_not_slow_pacer() {
    let b = FakeServiceB::start().await;
    let mut load = Load::start(&b.url, &["--rate", "100", "--duration", "1s", "--timeout", "50s"]);
    // All requests arrive although B responds to none of them.
    b.wait_for_requests(100).await;
    load.wait_for_line("completed, 100 requests in flight").await;
    b.open();
    let (status, report) = load.wait().await;
    assert!(status.success(), "{status}");
    assert_contains(&report, "requests   100 sent of 100 due\n");
    assert_contains(&report, "  ok                    100   100.00 %\n");
    // The first request was due one second before the gate opened and the middle one half a second.
    let [p50, .., max] = latencies(&report, "ok");
    assert!(p50 >= 490.0 && max >= 990.0, "{report}");
    let rate = report.split_once("rate       ").unwrap().1.split_once("/s sent").unwrap().0;
    // A busy machine may prolong the run, which lowers the rate.
    assert!((50.0..=100.0).contains(&rate.parse().unwrap()), "{report}");
}

#[tokio::test]
async fn requests_over_limit_are_counted() {
    let b = FakeServiceB::start().await;
    let flags = ["--rate", "100", "--duration", "1s", "--timeout", "50s", "--max-in-flight", "5"];
    let mut load = Load::start(&b.url, &flags);
    load.wait_for_line("completed, 5 requests in flight").await;
    b.open();
    let (status, report) = load.wait().await;
    assert!(status.success(), "{status}");
    assert_contains(&report, "requests   5 sent of 100 due; 95 not sent because 5 were in flight");
    assert_contains(&report, "  ok                      5   100.00 %\n");
}

#[tokio::test]
async fn outcomes_are_counted_by_kind() {
    let n = Arc::new(AtomicUsize::new(0));
    let responses = [
        (StatusCode::OK, OK),
        (StatusCode::SERVICE_UNAVAILABLE, r#"{"error":"timeout"}"#),
        (StatusCode::SERVICE_UNAVAILABLE, r#"{"error":"refused"}"#),
        (StatusCode::SERVICE_UNAVAILABLE, r#"{"error":"500","http_status":502}"#),
        (StatusCode::SERVICE_UNAVAILABLE, r#"{"error":"overload"}"#),
        (StatusCode::NOT_FOUND, "not found"),
        (StatusCode::OK, "garbage"),
    ];
    let handler = async move || match responses.get(n.fetch_add(1, Ordering::Relaxed) % 8) {
        Some(response) => response.into_response(),
        // The connection closes before the announced length is reached.
        None => {
            let chunks = [Ok("{"), Err(std::io::Error::other("truncated"))];
            let truncated = Body::from_stream(futures_util::stream::iter(chunks));
            ([(CONTENT_LENGTH, "100")], truncated).into_response()
        }
    };
    let url = serve(Router::new().route("/call-echo", get(handler))).await;
    let (status, report) = Load::start(&url, &["--rate", "80", "--duration", "1s"]).wait().await;
    assert!(status.success(), "{status}");
    assert_contains(&report, "requests   80 sent of 80 due\n");
    let kinds =
        ["ok", "timeout", "refused", "500", "overload", "B: status 404", "B: decode", "B: reset"];
    for kind in kinds {
        assert_contains(&report, &format!("  {kind:<15}        10    12.50 %\n"));
    }
    assert_eq!(report.split_once("outcomes\n").unwrap().1.lines().count(), kinds.len());
}

#[tokio::test]
async fn request_timeout_is_attributed_to_b() {
    let b = FakeServiceB::start().await;
    let flags = ["--rate", "20", "--duration", "200ms", "--timeout", "100ms"];
    let mut load = Load::start(&b.url, &flags);
    let error = load.wait_for_line("no response from service B").await;
    assert!(error.contains(&b.url), "{error}");
    let (status, report) = load.wait().await;
    assert_eq!(status.code(), Some(1));
    assert_contains(&report, "  B: timeout              4   100.00 %\n");
    assert!(latencies(&report, "all")[0] >= 100.0, "{report}");
}

#[tokio::test]
async fn refused_connections_exit_with_1() {
    // A bound socket that does not listen reserves the port and refuses connections.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}", socket.local_addr().unwrap());
    let mut load = Load::start(&url, &["--rate", "50", "--duration", "100ms"]);
    let error = load.wait_for_line("no response from service B").await;
    assert_eq!(
        error,
        format!(
            "lab load: no response from service B at {url}; is it running? `cargo run` starts it"
        )
    );
    let (status, report) = load.wait().await;
    assert_eq!(status.code(), Some(1));
    assert_contains(&report, "  B: refused              5   100.00 %\n");
}

#[tokio::test]
async fn invalid_settings_are_reported_together() {
    let mut load = Load::start("ftp://b", &["--rate", "0"]);
    load.wait_for_line("lab load: 2 invalid settings").await;
    load.wait_for_line("LOAD_TARGET (--target)").await;
    load.wait_for_line("LOAD_RATE (--rate)").await;
    let (status, report) = load.wait().await;
    assert_eq!((status.code(), report.as_str()), (Some(2), ""));
}

#[tokio::test]
async fn closed_stdout_is_ignored() {
    let b = FakeServiceB::start().await;
    b.open();
    let mut load = Load::start(&b.url, &["--rate", "20", "--duration", "100ms"]);
    drop(load.process.stdout.take());
    assert!(load.wait().await.0.success());
}

#[tokio::test]
async fn ramp_sends_fewer_requests() {
    let b = FakeServiceB::start().await;
    b.open();
    let flags = ["--rate", "100", "--ramp", "1s", "--duration", "1s"];
    let (_, report) = Load::start(&b.url, &flags).wait().await;
    assert_contains(&report, "requests   50 sent of 50 due\n");
    assert_contains(&report, "target 100.0/s after a ramp of 1s\n");
}

#[tokio::test]
async fn html_report_has_text_and_charts() {
    let n = Arc::new(AtomicUsize::new(0));
    let handler = async move || match n.fetch_add(1, Ordering::Relaxed) % 2 {
        0 => OK.into_response(),
        _ => (StatusCode::SERVICE_UNAVAILABLE, r#"{"error":"timeout"}"#).into_response(),
    };
    let url = serve(Router::new().route("/call-echo", get(handler))).await;
    let path = std::env::temp_dir().join(format!("load-{}.html", std::process::id()));
    let flags = ["--rate", "40", "--duration", "1s", "--html-report", path.to_str().unwrap()];
    let (status, report) = Load::start(&url, &flags).wait().await;
    assert!(status.success(), "{status}");
    let page = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_contains(&page, &format!("<pre>{report}</pre>"));
    // A curve of the rate, the p99 and the p50 for each of two outcomes.
    assert_eq!(page.matches("<path class='line").count(), 6, "{page}");
    assert_eq!(page.matches("<path class='line dashed'").count(), 2, "{page}");
    assert_contains(&page, "</span> ok<li>");
    assert_contains(&page, "</span> timeout</ul>");
}

#[tokio::test]
async fn unwritable_html_report_sends_nothing() {
    let b = FakeServiceB::start().await;
    let mut load = Load::start(&b.url, &["--html-report", "/missing/report.html"]);
    load.wait_for_line("lab load: cannot write /missing/report.html: ").await;
    assert_eq!(load.wait().await.0.code(), Some(1));
    assert_eq!(b.count(), 0);
}

#[cfg(unix)]
#[tokio::test]
async fn sigterm_reports_and_clears_faults() {
    let b = FakeServiceB::start().await;
    b.open();
    let (methods, mut faults) = tokio::sync::mpsc::unbounded_channel();
    let handler = move |method: axum::http::Method| async move {
        let _ = methods.send(method);
    };
    let a = serve(Router::new().route("/faults", axum::routing::any(handler))).await;

    let mut load = Load::start(&b.url, &["--rate", "100", "--faults-url", &a]);
    let first_line = load.wait_for_line("100.0 requests/s to").await;
    assert!(first_line.ends_with("/call-echo until stopped"), "{first_line}");
    b.wait_for_requests(20).await;
    // The cycle begins with the healthy phase.
    assert_eq!(faults.recv().await.unwrap().as_str(), "DELETE");
    load.terminate();
    let (status, report) = load.wait().await;
    assert_eq!(status.code(), Some(0));
    assert_contains(&report, "stopped by SIGTERM after");
    let count = b.count();
    assert_contains(&report, &format!("requests   {count} sent of {count} due\n"));
    assert_contains(&report, &format!("  ok              {count:>9}   100.00 %\n"));
    assert_contains(&report, "faults     1 switches, 0 failures, off at the end\n");
    assert_eq!(faults.recv().await.unwrap().as_str(), "DELETE");
    assert!(faults.try_recv().is_err());
}

#[cfg(unix)]
#[tokio::test]
async fn second_signal_aborts_requests() {
    let b = FakeServiceB::start().await;
    let mut load = Load::start(&b.url, &["--rate", "1000", "--duration", "1h", "--timeout", "1h"]);
    b.wait_for_requests(3).await;
    load.terminate();
    load.wait_for_line("stopped by SIGTERM, ").await;
    load.terminate();
    let (status, report) = load.wait().await;
    assert_eq!(status.code(), Some(0));
    assert_contains(&report, " aborted\n");
}

/// Service B that responds once its gate is open.
struct FakeServiceB {
    url: String,
    requests: watch::Receiver<usize>,
    gate: watch::Sender<bool>,
}

impl FakeServiceB {
    async fn start() -> Self {
        let (count, requests) = watch::channel(0);
        let (gate, opened) = watch::channel(false);
        let handler = move |uri: Uri, headers: HeaderMap| {
            assert_eq!(uri.query(), Some("msg=load"));
            assert!(!headers.contains_key("traceparent"));
            count.send_modify(|count| *count += 1);
            let mut opened = opened.clone();
            async move {
                let _ = opened.wait_for(|open| *open).await;
                OK
            }
        };
        let url = serve(Router::new().route("/call-echo", get(handler))).await;
        Self { url, requests, gate }
    }

    fn open(&self) {
        self.gate.send_replace(true);
    }

    fn count(&self) -> usize {
        *self.requests.borrow()
    }

    /// Waits until `n` requests have arrived.
    async fn wait_for_requests(&self, n: usize) {
        let mut requests = self.requests.clone();
        let waited =
            tokio::time::timeout(TEST_TIMEOUT, requests.wait_for(|count| *count >= n)).await;
        assert!(waited.is_ok(), "only {} of {n} requests arrived", self.count());
    }
}

/// Serves on a free port until the test ends and returns the base URL.
async fn serve(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async { axum::serve(listener, router).await });
    url
}

/// Running `lab load`.
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

    /// Waits for a line on stderr that contains `text`.
    async fn wait_for_line(&mut self, text: &str) -> String {
        let wait = async {
            while let Some(line) = self.stderr.next_line().await.unwrap() {
                if line.contains(text) {
                    return line;
                }
            }
            panic!("stderr closed without {text:?}");
        };
        tokio::time::timeout(TEST_TIMEOUT, wait).await.unwrap_or_else(|_| panic!("no {text:?}"))
    }

    #[cfg(unix)]
    fn terminate(&self) {
        let pid = i32::try_from(self.process.id().unwrap()).unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    /// Waits for the exit and returns the report.
    async fn wait(mut self) -> (ExitStatus, String) {
        let mut report = String::new();
        let stdout = self.process.stdout.take();
        let end = async {
            if let Some(mut stdout) = stdout {
                stdout.read_to_string(&mut report).await.unwrap();
            }
            self.process.wait().await.unwrap()
        };
        let status = tokio::time::timeout(TEST_TIMEOUT, end).await.expect("lab load does not exit");
        (status, report)
    }
}

#[track_caller]
fn assert_contains(report: &str, text: &str) {
    assert!(report.contains(text), "no {text:?} in\n{report}");
}

/// Returns a row of the report's latencies in milliseconds: p50, p90, p95, p99, p99.9, max.
fn latencies(report: &str, row: &str) -> [f64; 6] {
    let row = format!("  {row} ");
    let line = report.lines().find(|line| line.starts_with(&row)).unwrap();
    let values: Vec<f64> = line.split_whitespace().skip(1).map(|ms| ms.parse().unwrap()).collect();
    values.try_into().unwrap()
}
