//! What no well-meaning client sends: it gets a clear answer, and everybody else is served on.

use testkit::Process;
use testkit::http::{Connection, Request};

use crate::service_a;

/// Nothing panicked, nothing answered 5xx, and the next request is served.
fn assert_unharmed(service: &Process) {
    let answer = service.get("/echo?msg=hello");
    assert_eq!((answer.status, answer.text()), (200, r#"{"echo":"hello"}"#));
    service.wait_for_access(answer.trace_id());
    let page = service.metrics();
    for sample in page.named("http_server_request_duration_seconds_count") {
        let status = sample.labels.get("http_response_status_code");
        assert!(status.is_none_or(|status| !status.starts_with('5')), "{sample:?}");
    }
    assert!(!service.log().iter().any(|line| line.get("level") == Some("error")));
    assert_eq!(service.stderr(), [""; 0]);
}

#[test]
fn a_query_that_does_not_decode_is_a_400() {
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
        let answer = service.get(&format!("/echo?{query}"));
        assert_eq!((answer.status, answer.text()), (400, r#"{"error":"Invalid query string"}"#));
        let line = service.wait_for_access(answer.trace_id());
        assert_eq!((&line["level"], &line["endpoint"]), ("warn", "/echo"), "{query}");
    }
    assert_unharmed(&service);
}

#[test]
fn query_length_limit() {
    let service = service_a().serve();
    let long = "x".repeat(60 * 1024);
    let answer = service.get(&format!("/echo?msg={long}"));
    assert_eq!(answer.status, 200);
    assert_eq!(answer.text(), format!(r#"{{"echo":"{long}"}}"#));
    for length in [64 * 1024, 1024 * 1024] {
        let answer = service.get(&format!("/echo?msg={}", "x".repeat(length)));
        assert!(matches!(answer.status, 414 | 431), "{length}: {}", answer.status);
    }
    assert_unharmed(&service);
}

#[test]
fn a_flood_of_headers_is_refused() {
    let service = service_a().serve();
    let mut many = Request::new("GET", "/echo");
    for at in 0..10_000 {
        many = many.header(&format!("x-{at}"), "y");
    }
    let large = Request::new("GET", "/echo").header("x", &"y".repeat(1024 * 1024));
    for request in [many, large] {
        let mut connection = Connection::open(service.address());
        connection.send(&request.bytes());
        // The connection may be reset, since not all of the request is read; that is an answer too.
        if let Ok(answer) = connection.answer() {
            assert_eq!(answer.status, 431);
        }
    }
    assert_unharmed(&service);
}

/// `GET /echo` whose head has so many bytes and so many headers in all.
fn head(bytes: usize, headers: usize) -> Vec<u8> {
    // `Request` adds a `Host`, and this the one that fills it up.
    let mut request = Request::new("GET", "/echo");
    for at in 2..headers {
        request = request.header(&format!("x-{at}"), "y");
    }
    let rest = bytes - request.clone().header("x", "").bytes().len();
    let head = request.header("x", &"y".repeat(rest)).bytes();
    assert_eq!(head.len(), bytes);
    head
}

#[test]
fn a_head_is_taken_up_to_its_limits() {
    let service = service_a().serve();
    const KIB: usize = 1024;
    for (bytes, headers, status) in
        [(64 * KIB, 100, 200), (64 * KIB, 101, 431), (256 * KIB, 2, 431)]
    {
        let mut connection = Connection::open(service.address());
        connection.send(&head(bytes, headers));
        match connection.answer() {
            Ok(answer) => assert_eq!(answer.status, status, "{bytes} bytes, {headers} headers"),
            // As above.
            Err(error) => assert_eq!(status, 431, "{bytes} bytes, {headers} headers: {error}"),
        }
        println!("a head of {} KiB and {headers} headers: {status}", bytes / KIB);
    }
    assert_unharmed(&service);
}

#[test]
fn what_is_no_http_is_turned_away() {
    let service = service_a().serve();
    let impatient = service_a().env("IDLE_TIMEOUT_MS", "300").serve();
    let tls_hello: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    let openings = [
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
    // To the end of the connection, which is the server's to close: one that waits for the end of
    // what it is sent would not get there.
    let answer_of = |service: &Process, bytes: &[u8]| {
        let mut connection = Connection::open(service.address());
        connection.send(bytes);
        String::from_utf8(connection.read_to_end().unwrap()).unwrap()
    };
    for bytes in openings {
        let answer = answer_of(&service, bytes);
        assert!(answer.starts_with("HTTP/1.1 4"), "{bytes:?}: {answer}");
    }
    println!("{} openings that are no HTTP, each answered 4xx", openings.len());
    // HTTP/2, where an answer in HTTP/1.1 would be none; and empty lines, which may come before a head
    // (RFC 9112, section 2.2), before none. Both are closed.
    for bytes in [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), b"\r\n\r\n\r\n"] {
        assert_eq!(answer_of(&impatient, bytes), "", "{bytes:?}");
    }
    assert_unharmed(&service);
    assert_unharmed(&impatient);
}

#[test]
fn odd_targets_and_methods_are_4xx() {
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
        let answer = Request::new(method, target).send(service.address());
        assert!((400..500).contains(&answer.status), "{method} {target}: {}", answer.status);
    }
    assert_unharmed(&service);
}

#[test]
fn missing_body_does_not_block() {
    let service = service_a().serve();
    for (method, status) in [("POST", 405), ("GET", 200)] {
        let mut connection = Connection::open(service.address());
        connection.send(
            format!("{method} /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")
                .as_bytes(),
        );
        assert_eq!(connection.answer().unwrap().status, status, "{method}");
    }
    assert_unharmed(&service);
}

#[test]
fn a_garbled_traceparent_starts_a_new_trace() {
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
        let answer = Request::new("GET", "/echo")
            .header("traceparent", value)
            .header("tracestate", "a=1")
            .send(service.address());
        assert_eq!(answer.status, 200, "{value:?}");
        assert_ne!(answer.trace_id(), id, "{value:?}");
    }
    let valid = format!("00-{id}-b7ad6b7169203331-01");
    let twice = Request::new("GET", "/echo")
        .header("traceparent", &valid)
        .header("traceparent", &valid)
        .send(service.address());
    assert_eq!(twice.status, 200);
    assert_ne!(twice.trace_id(), id);
    assert_unharmed(&service);
}

#[test]
fn idle_connections_do_not_block() {
    let service = service_a().serve();
    let address = service.address();
    let mut idle: Vec<_> = (0..100).map(|_| Connection::open(address)).collect();
    for half in idle.iter_mut().step_by(2) {
        half.send(b"GET /echo HTTP/1.1\r\nHos");
    }
    assert_unharmed(&service);
    // Those that were half-way are served when they go on.
    idle[0].send(b"t: a\r\n\r\n");
    assert_eq!(idle[0].answer().unwrap().text(), r#"{"echo":""}"#);
}

#[test]
fn disconnect_does_not_affect_others() {
    let service = service_a().serve();
    for _ in 0..50 {
        let mut connection = Connection::open(service.address());
        connection.send(&Request::new("GET", "/echo?msg=hello").bytes());
        drop(connection);
    }
    assert_unharmed(&service);
}
