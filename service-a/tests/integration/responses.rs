//! Status, headers and body of responses.

use std::collections::BTreeSet;

use testkit::http::Request;

use crate::service_a;

#[test]
fn echo_is_decoded() {
    let service = service_a().serve();
    for (target, body) in [
        ("/echo?msg=hello", r#"{"echo":"hello"}"#),
        ("/echo", r#"{"echo":""}"#),
        ("/echo?", r#"{"echo":""}"#),
        ("/echo?msg", r#"{"echo":""}"#),
        ("/echo?msg=", r#"{"echo":""}"#),
        ("/echo?other=1&msg=hello", r#"{"echo":"hello"}"#),
        ("/echo?msg=a+b%20c", r#"{"echo":"a b c"}"#),
        ("/echo?msg=%C3%A9%F0%9F%A6%80%EF%BF%BD", "{\"echo\":\"é🦀\u{fffd}\"}"),
        ("/echo?msg=é🦀", r#"{"echo":"é🦀"}"#),
        ("/echo?msg=%22%5C%0A%00%7F", "{\"echo\":\"\\\"\\\\\\n\\u0000\u{7f}\"}"),
        ("/echo?msg=%26%3D%3F%23%25", r#"{"echo":"&=?#%"}"#),
    ] {
        let response = service.get(target);
        assert_eq!((response.status, response.text()), (200, body), "{target}");
        assert_eq!(response.header("content-type"), Some("application/json"), "{target}");
    }
}

#[test]
fn probes_return_ok() {
    let service = service_a().serve();
    for probe in ["/health", "/livez", "/readyz"] {
        let response = service.get(probe);
        assert_eq!((response.status, response.text()), (200, r#"{"status":"ok"}"#), "{probe}");
        assert_eq!(response.header("content-type"), Some("application/json"), "{probe}");
        assert_eq!(response.header("x-trace-id"), None, "{probe}");
    }
}

/// Every response of the router has a distinct trace id, which the access line repeats.
#[test]
fn responses_have_trace_id() {
    let service = service_a().serve();
    let mut seen = BTreeSet::new();
    for (method, target, status) in [
        ("GET", "/echo?msg=hello", 200),
        ("GET", "/echo?msg=hello", 200),
        ("HEAD", "/echo", 200),
        ("POST", "/echo", 405),
        ("BREW", "/echo", 405),
        ("GET", "/echo?msg=%ff", 400),
        ("GET", "/nowhere", 404),
        ("OPTIONS", "/echo", 405),
    ] {
        let response = Request::new(method, target).send(service.address());
        assert_eq!(response.status, status, "{method} {target}");
        let line = service.wait_for_access_line(response.trace_id());
        assert_eq!(&line["http_status"], status.to_string());
        assert!(seen.insert(response.trace_id().to_owned()), "duplicate trace id");
    }
}

#[test]
fn head_matches_get_without_body() {
    let service = service_a().serve();
    let mut connection = Request::new("HEAD", "/echo?msg=hello").start(service.address());
    let second = Request::new("GET", "/echo?msg=second").header("Connection", "close");
    connection.send(&second.to_bytes());
    let responses = String::from_utf8(connection.read_to_end().unwrap()).unwrap();
    let (headers, rest) = responses.split_once("\r\n\r\n").unwrap();
    assert!(headers.starts_with("HTTP/1.1 200 OK\r\n"), "{headers}");
    assert!(headers.contains("content-length: 16"), "{headers}");
    // The second response follows immediately, because the first has no body.
    assert!(rest.starts_with("HTTP/1.1 200 OK\r\n"), "{rest}");
    assert!(rest.ends_with("\r\n\r\n{\"echo\":\"second\"}"), "{rest}");

    let page = service.metrics();
    let labels = [("http_request_method", "HEAD"), ("http_route", "/echo")];
    assert_eq!(page.value("http_server_request_duration_seconds_count", &labels), Some(1.0));
}

#[test]
fn method_not_allowed_keeps_route() {
    let service = service_a().serve();
    let response = Request::new("POST", "/echo").body("x=1").send(service.address());
    assert_eq!((response.status, response.text()), (405, ""));
    assert_eq!(response.header("allow"), Some("GET,HEAD"));
    let line = service.wait_for_access_line(response.trace_id());
    assert_eq!((&line["endpoint"], &line["method"]), ("/echo", "POST"));
    let labels = [
        ("http_request_method", "POST"),
        ("http_route", "/echo"),
        ("http_response_status_code", "405"),
    ];
    let count = service.metrics().value("http_server_request_duration_seconds_count", &labels);
    assert_eq!(count, Some(1.0));
}

#[test]
fn unknown_path_is_unmatched() {
    let service = service_a().serve();
    for target in ["/", "/nowhere", "/echo/", "/ECHO", "/%65cho", "//echo", "/a/b?c=d", "/%0A"] {
        let response = service.get(target);
        assert_eq!((response.status, response.text()), (404, ""), "{target}");
        assert_eq!(&service.wait_for_access_line(response.trace_id())["endpoint"], "unmatched");
    }
    let labels = [("http_route", "unmatched"), ("http_response_status_code", "404")];
    let count = service.metrics().value("http_server_request_duration_seconds_count", &labels);
    assert_eq!(count, Some(8.0));
}

#[test]
fn unknown_method_is_other() {
    let service = service_a().serve();
    for method in ["BREW", "get", "X-1!"] {
        let response = Request::new(method, "/echo").send(service.address());
        assert_eq!(response.status, 405, "{method}");
        assert_eq!(&service.wait_for_access_line(response.trace_id())["method"], "_OTHER");
    }
    let page = service.metrics();
    let other = [("http_request_method", "_OTHER")];
    assert_eq!(page.value("http_server_request_duration_seconds_count", &other), Some(3.0));
    assert_eq!(page.value("http_server_active_requests", &other), Some(0.0));
}
