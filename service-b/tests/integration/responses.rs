//! Responses while service A works, and requests that do not call it.

use testkit::http::Request;
use testkit::{FakeServer, Reply, ReservedPort};

use crate::{
    CLIENT_DURATION_COUNT, CLIENT_ERRORS, SERVER_DURATION_COUNT, server_labels, service_b,
};

#[test]
fn echo_is_embedded_in_response() {
    let service_a = FakeServer::start(Reply::echo("hello"));
    let service = service_b(service_a.url()).serve();
    let response = service.get("/call-echo?msg=hello");
    assert_eq!(response.status, 200);
    assert_eq!(response.text(), r#"{"service_a":{"echo":"hello"},"service_b":"ok"}"#);
    assert_eq!(response.header("content-type"), Some("application/json"));
    service.wait_for_access_line(response.trace_id());
}

/// Service A receives the decoded message, encoded again.
#[test]
fn message_is_percent_encoded() {
    let service_a = FakeServer::start(Reply::echo(""));
    let service = service_b(service_a.url()).serve();
    let long = "x".repeat(60 * 1024);
    let messages = [
        ("hello", "hello"),
        ("a+b%20c", "a+b+c"),
        ("%C3%A9%F0%9F%A6%80", "%C3%A9%F0%9F%A6%80"),
        ("é🦀", "%C3%A9%F0%9F%A6%80"),
        ("%26x=%3D%23%25", "%26x%3D%3D%23%25"),
        ("%0A%00", "%0A%00"),
        ("&msg=a", "a"),
        (&long, &long),
    ];
    for (number, (sent, received)) in messages.into_iter().enumerate() {
        let target = match sent.strip_prefix('&') {
            Some(rest) => format!("/call-echo?x=1&{rest}"),
            None => format!("/call-echo?msg={sent}"),
        };
        assert_eq!(service.get(&target).status, 200, "{sent}");
        let request = service_a.wait_for_request(number + 1);
        assert_eq!(request.line, format!("GET /echo?msg={received} HTTP/1.1"));
    }
}

#[test]
fn echo_is_passed_through() {
    let service_a = FakeServer::start(Reply::echo(""));
    let service = service_b(service_a.url()).serve();
    for (upstream, embedded) in [
        (r#"{"echo":"é🦀\n\u0000\"\\"}"#, r#"{"echo":"é🦀\n\u0000\"\\"}"#),
        ("{ \"more\": [1], \"echo\": \"\\u00e9\" }\n", r#"{"echo":"é"}"#),
        (r#"{"echo":"</script>"}"#, r#"{"echo":"</script>"}"#),
    ] {
        service_a.set_reply(Reply::Json(200, upstream.to_owned()));
        let response = service.get("/call-echo?msg=x");
        assert_eq!(response.text(), format!(r#"{{"service_a":{embedded},"service_b":"ok"}}"#));
    }
    // Any 2xx status is a success.
    service_a.set_reply(Reply::Json(203, r#"{"echo":"x"}"#.to_owned()));
    assert_eq!(service.get("/call-echo?msg=x").status, 200);
}

/// Invalid requests do not call service A.
#[test]
fn missing_message_returns_400() {
    let service_a = FakeServer::start(Reply::echo(""));
    let service = service_b(service_a.url()).serve();
    for target in
        ["/call-echo", "/call-echo?", "/call-echo?msg", "/call-echo?msg=", "/call-echo?other=1"]
    {
        let response = service.get(target);
        assert_eq!(response.status, 400, "{target}");
        assert_eq!(response.text(), r#"{"error":"Missing 'msg' parameter"}"#);
        assert_eq!(response.header("content-type"), Some("application/json"));
        let line = service.wait_for_access_line(response.trace_id());
        assert_eq!((&line["level"], &line["http_status"]), ("warn", "400"));
    }
    for query in ["msg=%ff", "msg=%", "msg=%zz", "msg=a&msg=b"] {
        let response = service.get(&format!("/call-echo?{query}"));
        assert_eq!(
            (response.status, response.text()),
            (400, r#"{"error":"Invalid query string"}"#)
        );
    }
    for method in ["POST", "BREW"] {
        let response = Request::new(method, "/call-echo?msg=x").send(service.address());
        assert_eq!(response.status, 405, "{method}");
    }
    assert_eq!(service_a.requests(), []);
    assert_eq!(service.metrics().sum(CLIENT_DURATION_COUNT, &[]), 0.0);
}

#[test]
fn head_has_no_body() {
    let service_a = FakeServer::start(Reply::echo("hello"));
    let service = service_b(service_a.url()).serve();
    let response = Request::new("HEAD", "/call-echo?msg=hello").send(service.address());
    assert_eq!((response.status, response.header("content-length")), (200, Some("47")));
    assert_eq!(service_a.requests().len(), 1);
}

/// Probes return 200 while service A is down.
#[test]
fn probes_ignore_upstream() {
    let port = ReservedPort::bind();
    let service = service_b(port.url()).serve();
    for probe in ["/health", "/livez", "/readyz"] {
        let response = service.get(probe);
        assert_eq!((response.status, response.text()), (200, r#"{"status":"ok"}"#), "{probe}");
        assert_eq!(response.header("x-trace-id"), None, "{probe}");
    }
}

#[test]
fn error_counters_start_at_zero() {
    let service_a = FakeServer::start(Reply::echo("hello"));
    let service = service_b(service_a.url()).serve();
    let [address, port] = server_labels(&service_a);
    let page = service.metrics();
    assert_eq!(page.types[CLIENT_ERRORS], "counter");
    for kind in [
        "timeout",
        "refused",
        "reset",
        "dns",
        "unreachable",
        "tls",
        "decode",
        "canceled",
        "local",
        "other",
    ] {
        let labels = [(address.0, &*address.1), (port.0, &*port.1), ("error_type", kind)];
        assert_eq!(page.value(CLIENT_ERRORS, &labels), Some(0.0), "{kind}");
    }
}

#[test]
fn call_records_one_sample() {
    let service_a = FakeServer::start(Reply::echo("hello"));
    let service = service_b(service_a.url()).serve();
    let response = service.get("/call-echo?msg=hello");
    service.wait_for_access_line(response.trace_id());
    let page = service.metrics();
    assert_eq!(page.types["http_client_request_duration_seconds"], "histogram");
    let calls: Vec<_> = page.named(CLIENT_DURATION_COUNT).collect();
    let [call] = calls.as_slice() else { panic!("{calls:?}") };
    let labels: Vec<_> = call.labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let [address, port] = server_labels(&service_a);
    assert_eq!(
        labels,
        [
            ("http_request_method", "GET"),
            ("http_response_status_code", "200"),
            (address.0, &*address.1),
            (port.0, &*port.1),
        ]
    );
    assert_eq!(call.value, 1.0);
    let buckets = page.named("http_client_request_duration_seconds_bucket").count();
    assert_eq!(buckets, 19);
    assert_eq!(page.sum(CLIENT_ERRORS, &[]), 0.0);
    let served = [("http_route", "/call-echo"), ("http_response_status_code", "200")];
    assert_eq!(page.value(SERVER_DURATION_COUNT, &served), Some(1.0));
}
