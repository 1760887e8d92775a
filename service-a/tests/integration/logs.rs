//! The log: one line a request, in a form that no request can bend.

use std::collections::BTreeSet;

use testkit::http::Request;
use testkit::{Process, ProcessBuilder, Stdout};

use crate::{faulty, service_a};

#[test]
fn access_line_fields() {
    let service = service_a().serve();
    let answer = service.get("/echo?msg=hello");
    let line = service.wait_for_access(answer.trace_id());
    let expected = format!(
        "{} level=info service=A endpoint=/echo status=ok latency_ms={} method=GET http_status=200 trace_id={} span_id={}",
        &line["ts"],
        &line["latency_ms"],
        answer.trace_id(),
        &line["span_id"]
    );
    assert_eq!(service.stdout()[1..], [expected]);
    assert!(line["latency_ms"].parse::<u32>().is_ok());
    assert_eq!(line["span_id"].len(), 16);
}

#[test]
fn access_line_of_failure() {
    let service = faulty(r#"{"status":500}"#);
    let answer = service.get("/echo?msg=hello");
    let line = service.wait_for_access(answer.trace_id());
    let expected = format!(
        "{} level=error service=A endpoint=/echo status=error http_status=500 error=\"500\" complete_error=\"injected fault\" latency_ms={} method=GET trace_id={} span_id={}",
        &line["ts"],
        &line["latency_ms"],
        answer.trace_id(),
        &line["span_id"]
    );
    assert_eq!(service.stdout()[1..], [expected]);
}

#[test]
fn json_lines_have_the_same_fields() {
    let fields = |service: &Process, target: &str| -> BTreeSet<String> {
        let trace_id = service.get(target).trace_id().to_owned();
        let line = service.wait_for_access(&trace_id);
        line.keys().into_iter().map(str::to_owned).collect()
    };
    let (logfmt, json) = (service_a().serve(), service_a().env("LOG_FORMAT", "json").serve());
    for target in ["/echo?msg=hello", "/echo?msg=%ff", "/nowhere"] {
        assert_eq!(fields(&logfmt, target), fields(&json, target), "{target}");
    }
    let line: serde_json::Value = serde_json::from_str(json.stdout().last().unwrap()).unwrap();
    assert!(line["latency_ms"].is_u64() && line["http_status"] == 404, "{line}");
    assert_eq!(line["endpoint"], "unmatched");
}

#[test]
fn no_request_can_forge_a_line_or_a_field() {
    for format in ["logfmt", "json"] {
        let service = service_a().env("LOG_FORMAT", format).serve();
        let mut trace_ids = Vec::new();
        for (method, target, name, value) in [
            ("GET", "/echo?msg=%0Aservice=A%20status=ok", "X", "x"),
            ("GET", "/%0Alevel=info%20service=A%20endpoint=/echo", "X", "x"),
            ("GET", "/echo?x=%1B%5B2K%0D%0Alevel=info", "User-Agent", "a\" level=info b=\"\\n"),
            ("status=ok", "/echo", "Traceparent", "00-1 trace_id=2"),
            ("GET", "/a\" status=ok", "X", "x"),
            ("GET", "/echo", "Tracestate", "a=1 service=B,b=\"2\""),
        ] {
            let request = Request::new(method, target).header(name, value);
            let mut connection = testkit::http::Connection::open(service.address());
            connection.send(&request.bytes());
            // A target with a space is no HTTP, so the server below the routes turns it away.
            let answer = connection.answer().unwrap();
            if let Some(trace_id) = answer.header("x-trace-id") {
                trace_ids.push(trace_id.to_owned());
            }
        }
        assert!(trace_ids.len() >= 4, "{trace_ids:?}");
        for trace_id in &trace_ids {
            let line = service.wait_for_access(trace_id);
            assert!(matches!(&line["endpoint"], "/echo" | "unmatched"), "{line:?}");
            assert_eq!(&line["service"], "A");
        }
        // Each is one line and there are no others. That each is legal was seen in reading them.
        assert_eq!(service.log().len(), 1 + trace_ids.len());
    }
}

#[test]
fn the_filter_chooses_among_the_lines() {
    // The filter, and the answers that are logged with it.
    for (filter, expected) in [
        ("info", &["200", "404"][..]),
        ("warn", &["404"]),
        ("info,access=off", &[]),
        ("warn,access=info", &["200", "404"]),
        ("off", &[]),
    ] {
        // The address cannot be read from a log that is off.
        let address = testkit::ReservedPort::take().leave();
        let service = service_a().env("RUST_LOG", filter).env("LISTEN_ADDR", address.to_string());
        let service = service.start();
        wait_until_ready(address);
        for target in ["/echo", "/nowhere"] {
            testkit::http::get(address, target);
        }
        service.terminate();
        service.wait();
        let log = service.log();
        let statuses: Vec<_> = log.iter().filter_map(|line| line.get("http_status")).collect();
        assert_eq!(statuses, expected, "{filter}");
        let says_that_it_listens = log.iter().any(|line| line.get("msg") == Some("listening"));
        assert_eq!(says_that_it_listens, filter.starts_with("info"), "{filter}");
    }
}

fn wait_until_ready(address: std::net::SocketAddr) {
    let check = |launch: ProcessBuilder| {
        launch.env("LISTEN_ADDR", address.to_string()).arg("--health-check")
    };
    let deadline = std::time::Instant::now() + testkit::TEST_TIMEOUT;
    while check(service_a()).run_to_exit().code != Some(0) {
        assert!(std::time::Instant::now() < deadline, "not ready");
    }
}

#[test]
fn a_reader_that_is_stuck_or_gone_stops_nothing_and_lost_lines_are_counted() {
    for (stdout, reason) in [
        (Stdout::StuckAfterFirstLine, "queue_full"),
        (Stdout::ClosedAfterFirstLine, "write_failed"),
    ] {
        let service = service_a().stdout(stdout).env("SHUTDOWN_TIMEOUT_MS", "2000").serve();
        let mut connection = testkit::http::Connection::open(service.address());
        let request = Request::new("GET", "/echo?msg=hello").bytes().repeat(100);
        let lost = [("error_type", reason)];
        // About 1.2 MB of lines fill the pipe and the queue.
        let mut answered = 0;
        for _ in 0..200 {
            connection.send(&request);
            for _ in 0..100 {
                assert_eq!(connection.answer().unwrap().status, 200);
                answered += 1;
            }
            if service.metrics().value("log_lines_lost_total", &lost) > Some(0.0) {
                break;
            }
        }
        let lines = service.metrics().value("log_lines_lost_total", &lost).unwrap();
        println!("{stdout:?}: {answered} requests, all answered; {lines} lines lost");
        assert!(lines > 0.0, "{stdout:?}");
        #[cfg(unix)]
        assert_eq!(service.stop().code, Some(0), "{stdout:?}");
    }
}
