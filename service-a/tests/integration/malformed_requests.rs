//! Malformed, oversized and incomplete requests.

use testkit::Process;
use testkit::http::{Connection, Request};

use crate::service_a;

/// Checks that no request panicked or received a 5xx status and that the next request is served.
fn assert_healthy(service: &Process) {
    let response = service.get("/echo?msg=hello");
    assert_eq!((response.status, response.text()), (200, r#"{"echo":"hello"}"#));
    service.wait_for_access_line(response.trace_id());
    let page = service.metrics();
    for sample in page.named("http_server_request_duration_seconds_count") {
        let status = sample.labels.get("http_response_status_code");
        assert!(status.is_none_or(|status| !status.starts_with('5')), "{sample:?}");
    }
    assert!(!service.log().iter().any(|line| line.get("level") == Some("error")));
    assert_eq!(service.stderr(), [""; 0]);
}

#[test]
fn undecodable_query_returns_400() {
    let service = service_a().serve();
    for query in [
        "msg=%",
        "msg=%4",
        "msg=%zz",
        "msg=%ff",
        "msg=%c3",
        "msg=%ed%a0%80",
        "%ff=1",
        "msg=a&msg=b",
    ] {
        let response = service.get(&format!("/echo?{query}"));
        assert_eq!(
            (response.status, response.text()),
            (400, r#"{"error":"Invalid query string"}"#)
        );
        let line = service.wait_for_access_line(response.trace_id());
        assert_eq!((&line["level"], &line["endpoint"]), ("warn", "/echo"), "{query}");
    }
    assert_healthy(&service);
}

/// A query of 60 KiB is echoed. One of 64 KiB or more exceeds the limit on request headers.
#[test]
fn query_length_limit() {
    let service = service_a().serve();
    let long = "x".repeat(60 * 1024);
    let response = service.get(&format!("/echo?msg={long}"));
    assert_eq!(response.status, 200);
    assert_eq!(response.text(), format!(r#"{{"echo":"{long}"}}"#));
    for length in [64 * 1024, 1024 * 1024] {
        let response = service.get(&format!("/echo?msg={}", "x".repeat(length)));
        assert!(matches!(response.status, 414 | 431), "{length}: {}", response.status);
    }
    assert_healthy(&service);
}

#[test]
fn excessive_headers_return_431() {
    let service = service_a().serve();
    let mut many = Request::new("GET", "/echo");
    for index in 0..10_000 {
        many = many.header(&format!("x-{index}"), "y");
    }
    let large = Request::new("GET", "/echo").header("x", &"y".repeat(1024 * 1024));
    for request in [many, large] {
        // The server does not read the whole request, so a reset may discard the response.
        if let Ok(response) = request.start(service.address()).response() {
            assert_eq!(response.status, 431);
        }
    }
    assert_healthy(&service);
}

/// Creates a request with this many bytes and headers, `Host` included.
fn padded_request(bytes: usize, headers: usize) -> Request {
    let mut request = Request::new("GET", "/echo");
    // `Host` and the padding make up the other two.
    for index in 2..headers {
        request = request.header(&format!("x-{index}"), "y");
    }
    let padding = bytes - request.clone().header("x", "").to_bytes().len();
    let request = request.header("x", &"y".repeat(padding));
    assert_eq!(request.to_bytes().len(), bytes);
    request
}

#[test]
fn request_header_limits() {
    const KIB: usize = 1024;
    let service = service_a().serve();
    for (bytes, headers, status) in
        [(64 * KIB, 100, 200), (64 * KIB, 101, 431), (256 * KIB, 2, 431)]
    {
        match padded_request(bytes, headers).start(service.address()).response() {
            Ok(response) => assert_eq!(response.status, status, "{bytes} bytes, {headers} headers"),
            // A reset may discard the response.
            Err(error) => assert_eq!(status, 431, "{bytes} bytes, {headers} headers: {error}"),
        }
        println!("request of {} KiB with {headers} headers: {status}", bytes / KIB);
    }
    assert_healthy(&service);
}

#[test]
fn non_http_input_is_rejected() {
    let service = service_a().serve();
    let short_timeout = service_a().env("IDLE_TIMEOUT_MS", "300").serve();
    let tls_hello: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    let inputs = [
        b"hello\r\n\r\n".as_slice(),
        tls_hello,
        b"GET\r\n\r\n",
        b"GET /echo HTTP/9.9\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nbad header\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"GET /ec ho HTTP/1.1\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\n\r\n",
        &[0xff; 4096],
    ];
    // Reads until the server closes the connection, because the client keeps its side open.
    let response_to = |service: &Process, bytes: &[u8]| {
        let mut connection = Connection::open(service.address());
        connection.send(bytes);
        String::from_utf8(connection.read_to_end().unwrap()).unwrap()
    };
    for bytes in inputs {
        let response = response_to(&service, bytes);
        assert!(response.starts_with("HTTP/1.1 4"), "{bytes:?}: {response}");
    }
    println!("{} of {} inputs that are not HTTP received 4xx", inputs.len(), inputs.len());
    // The connection is closed without a response after an incomplete preface of HTTP/2, and after empty
    // lines, which RFC 9112, section 2.2, allows before a request.
    for bytes in [b"PRI * HTTP/2.0\r\n\r\nSM".as_slice(), b"\r\n\r\n\r\n"] {
        assert_eq!(response_to(&short_timeout, bytes), "", "{bytes:?}");
    }
    assert_healthy(&service);
    assert_healthy(&short_timeout);
}

#[test]
fn unusual_requests_return_4xx() {
    let service = service_a().serve();
    let long_method = "M".repeat(1000);
    for (method, target) in [
        ("OPTIONS", "*"),
        ("CONNECT", "example.test:443"),
        ("GET", "http://example.test/nowhere"),
        ("GET", "/../../etc/passwd"),
        ("TRACE", "/echo"),
        (&long_method, "/echo"),
    ] {
        let response = Request::new(method, target).send(service.address());
        assert!((400..500).contains(&response.status), "{method} {target}: {}", response.status);
    }
    assert_healthy(&service);
}

/// The server responds although the announced body never arrives.
#[test]
fn missing_body_does_not_block() {
    let service = service_a().serve();
    for (method, status) in [("POST", 405), ("GET", 200)] {
        let mut connection = Connection::open(service.address());
        connection.send(
            format!("{method} /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")
                .as_bytes(),
        );
        assert_eq!(connection.response().unwrap().status, status, "{method}");
    }
    assert_healthy(&service);
}

#[test]
fn invalid_traceparent_starts_new_trace() {
    let service = service_a().serve();
    let id = "0af7651916cd43dd8448eb211c80319c";
    let long = "0".repeat(10_000);
    for value in [
        "",
        "garbage",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
        "\u{e9}\u{1f980}",
        &long,
    ] {
        let response = Request::new("GET", "/echo")
            .header("traceparent", value)
            .header("tracestate", "a=1")
            .send(service.address());
        assert_eq!(response.status, 200, "{value:?}");
        assert_ne!(response.trace_id(), id, "{value:?}");
    }
    let valid = format!("00-{id}-b7ad6b7169203331-01");
    let duplicate = Request::new("GET", "/echo")
        .header("traceparent", &valid)
        .header("traceparent", &valid)
        .send(service.address());
    assert_eq!(duplicate.status, 200);
    assert_ne!(duplicate.trace_id(), id);
    assert_healthy(&service);
}

#[test]
fn idle_connections_do_not_block() {
    let service = service_a().serve();
    let address = service.address();
    let mut idle: Vec<_> = (0..100).map(|_| Connection::open(address)).collect();
    for partial in idle.iter_mut().step_by(2) {
        partial.send(b"GET /echo HTTP/1.1\r\nHos");
    }
    assert_healthy(&service);
    idle[0].send(b"t: a\r\n\r\n");
    assert_eq!(idle[0].response().unwrap().text(), r#"{"echo":""}"#);
}

#[test]
fn disconnect_does_not_affect_others() {
    let service = service_a().serve();
    for _ in 0..50 {
        drop(Request::new("GET", "/echo?msg=hello").start(service.address()));
    }
    assert_healthy(&service);
}
