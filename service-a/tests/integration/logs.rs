//! Access log, log formats and blocked log output.

use std::collections::BTreeSet;

use testkit::http::{Connection, Request};
use testkit::{Process, ReservedPort, Stdout, wait_until};

use crate::{service_a, service_a_with_faults};

#[test]
fn access_line_fields() {
    let service = service_a().serve();
    let response = service.get("/echo?msg=hello");
    let line = service.wait_for_access_line(response.trace_id());
    let expected = format!(
        "{} level=info service=A endpoint=/echo status=ok latency_ms={} method=GET http_status=200 trace_id={} span_id={}",
        &line["ts"],
        &line["latency_ms"],
        response.trace_id(),
        &line["span_id"]
    );
    assert_eq!(service.stdout()[1..], [expected]);
    assert!(line["latency_ms"].parse::<u32>().is_ok());
    assert_eq!(line["span_id"].len(), 16);
}

#[test]
fn access_line_of_failure() {
    let service = service_a_with_faults(r#"{"status":500}"#);
    let response = service.get("/echo?msg=hello");
    let line = service.wait_for_access_line(response.trace_id());
    let expected = format!(
        "{} level=error service=A endpoint=/echo status=error http_status=500 error=\"500\" complete_error=\"injected fault\" latency_ms={} method=GET trace_id={} span_id={}",
        &line["ts"],
        &line["latency_ms"],
        response.trace_id(),
        &line["span_id"]
    );
    assert_eq!(service.stdout()[1..], [expected]);
}

#[test]
fn json_has_logfmt_fields() {
    let fields = |service: &Process, target: &str| -> BTreeSet<String> {
        let trace_id = service.get(target).trace_id().to_owned();
        let line = service.wait_for_access_line(&trace_id);
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

/// No request can forge a log line or a field.
#[test]
fn request_data_is_escaped() {
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
            // hyper rejects a target with a space before the router assigns a trace id.
            let response = request.send(service.address());
            if let Some(trace_id) = response.header("x-trace-id") {
                trace_ids.push(trace_id.to_owned());
            }
        }
        assert!(trace_ids.len() >= 4, "{trace_ids:?}");
        for trace_id in &trace_ids {
            let line = service.wait_for_access_line(trace_id);
            assert!(matches!(&line["endpoint"], "/echo" | "unmatched"), "{line:?}");
            assert_eq!(&line["service"], "A");
        }
        // One line per request after the startup line, and one for the request that hyper rejects. `log`
        // rejects malformed lines.
        service.wait_for_message("request rejected before it reached a route");
        assert_eq!(service.log().len(), 2 + trace_ids.len());
    }
}

/// `RUST_LOG` selects the levels of access lines and other lines separately.
#[test]
fn rust_log_filters_lines() {
    for (filter, expected_statuses) in [
        ("info", &["200", "404"][..]),
        ("warn", &["404"]),
        ("info,access=off", &[]),
        ("warn,access=info", &["200", "404"]),
        ("off", &[]),
    ] {
        // A log that is off does not contain the address, so the test chooses it.
        let address = ReservedPort::bind().release();
        let service = service_a().env("RUST_LOG", filter).env("LISTEN_ADDR", address.to_string());
        let service = service.start();
        wait_until("a passing health check", || {
            let check = service_a().env("LISTEN_ADDR", address.to_string()).arg("--health-check");
            check.run_to_exit().code == Some(0)
        });
        for target in ["/echo", "/nowhere"] {
            testkit::http::get(address, target);
        }
        service.terminate();
        service.wait();
        let log = service.log();
        let statuses: Vec<_> = log.iter().filter_map(|line| line.get("http_status")).collect();
        assert_eq!(statuses, expected_statuses, "{filter}");
        let has_startup_line = log.iter().any(|line| line.get("msg") == Some("listening"));
        assert_eq!(has_startup_line, filter.starts_with("info"), "{filter}");
    }
}

#[test]
fn blocked_stdout_drops_lines() {
    assert_stdout_drops_lines(Stdout::BlockAfterFirstLine, "queue_full");
}

#[test]
fn closed_stdout_drops_lines() {
    assert_stdout_drops_lines(Stdout::CloseAfterFirstLine, "write_failed");
}

/// Checks that stdout delays neither requests nor the shutdown and that dropped lines are counted.
fn assert_stdout_drops_lines(stdout: Stdout, reason: &str) {
    let service = service_a().stdout(stdout).env("SHUTDOWN_TIMEOUT_MS", "2000").serve();
    let mut connection = Connection::open(service.address());
    let batch = Request::new("GET", "/echo?msg=hello").to_bytes().repeat(100);
    let dropped = [("error_type", reason)];
    let mut responses = 0;
    // About 1.2 MB of lines fill the pipe and the queue.
    for _ in 0..200 {
        connection.send(&batch);
        for _ in 0..100 {
            assert_eq!(connection.response().unwrap().status, 200);
            responses += 1;
        }
        if service.metrics().value("log_lines_lost_total", &dropped) > Some(0.0) {
            break;
        }
    }
    let lines = service.metrics().value("log_lines_lost_total", &dropped).unwrap();
    println!("{stdout:?}: {responses} of {responses} requests succeeded, {lines} lines dropped");
    assert!(lines > 0.0);
    #[cfg(unix)]
    assert_eq!(service.stop().code, Some(0));
}
