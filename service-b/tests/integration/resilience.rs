//! What may be asked for and is off otherwise: calls made again, the circuit breaker, shed load.

use testkit::{FakeServer, Reply, ReservedPort};

use crate::{CLIENT_ERRORS, service_b};

#[test]
fn connect_error_is_retried() {
    let nobody = ReservedPort::take();
    let url = format!("http://{}", nobody.address());
    for (retries, refused) in [("0", 1.0), ("2", 3.0)] {
        let service = service_b(&url).env("SERVICE_A_CONNECT_RETRIES", retries).serve();
        let answer = service.get("/call-echo?msg=hello");
        assert_eq!(answer.json()["error"], "refused", "{retries}");
        let page = service.metrics();
        assert_eq!(page.value(CLIENT_ERRORS, &[("error_type", "refused")]), Some(refused));
        assert_eq!(page.sum("http_client_request_retries_total", &[]), refused - 1.0);
    }
}

#[test]
fn sent_request_is_not_retried() {
    for reply in
        [Reply::Reset(Vec::new()), Reply::Close(Vec::new()), Reply::Json(503, String::new())]
    {
        let service_a = FakeServer::start(reply);
        let service = service_b(service_a.url()).env("SERVICE_A_CONNECT_RETRIES", "3").serve();
        assert_eq!(service.get("/call-echo?msg=hello").status, 503);
        assert_eq!(service_a.requests().len(), 1);
    }
}

#[test]
fn breaker_opens_and_recovers() {
    let service_a = FakeServer::start(Reply::Json(500, String::new()));
    let service = service_b(service_a.url()).env("SERVICE_A_BREAKER_FAILURES", "2").serve();
    let call = || service.get("/call-echo?msg=hello").json()["error"].clone();
    assert_eq!([call(), call()], ["500", "500"]);
    service_a.reply(Reply::echo("hello"));
    let answer = service.get("/call-echo?msg=hello");
    assert_eq!((answer.status, &answer.json()["error"]), (503, &"circuit_open".into()));
    assert_eq!(answer.json()["http_status"], 503);
    let line = service.wait_for_access(answer.trace_id());
    assert_eq!(&line["error"], "circuit_open");
    assert_eq!(service_a.requests().len(), 2);
    let open = |page: &testkit::prometheus::Page| page.sum("http_client_circuit_breaker_open", &[]);
    assert_eq!(open(&service.metrics()), 1.0);
    // It is asked again by itself, and then all is well.
    let opened = std::time::Instant::now();
    let mut spared = 1;
    while service.get("/call-echo?msg=hello").status != 200 {
        assert!(opened.elapsed() < testkit::TEST_TIMEOUT, "the breaker stays open");
        spared += 1;
    }
    println!(
        "open after 2 failures: {spared} calls not made, closed after {:.1?}",
        opened.elapsed()
    );
    assert_eq!(service_a.requests().len(), 3);
    assert_eq!(open(&service.metrics()), 0.0);
}

#[test]
fn one_request_too_many_is_answered_at_once_and_probes_always() {
    let service_a = FakeServer::start(Reply::Delayed(200, r#"{"echo":"hello"}"#.to_owned()));
    let service = service_b(service_a.url())
        .env("MAX_CONCURRENT_REQUESTS", "2")
        .env("SERVICE_A_TIMEOUT_MS", "60000")
        .serve();
    let address = service.address();
    std::thread::scope(|scope| {
        let calls: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(move || testkit::http::get(address, "/call-echo?msg=hello").status)
            })
            .collect();
        service_a.wait_for_request(2);
        let answer = service.get("/call-echo?msg=hello");
        assert_eq!((answer.status, answer.text()), (503, r#"{"error":"overload"}"#));
        assert_eq!(answer.header("retry-after"), Some("1"));
        assert_eq!(&service.wait_for_access(answer.trace_id())["error"], "overload");
        assert_eq!(service.get("/health").status, 200);
        service_a.release();
        assert!(calls.into_iter().all(|call| call.join().unwrap() == 200));
    });
    assert_eq!(service.get("/call-echo?msg=hello").status, 200);
}
