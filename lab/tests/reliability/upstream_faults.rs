//! Failures of service A: memory, sockets and tasks of service B stay bounded.

use testkit::http::Request;
use testkit::{FakeServer, Process, Reply, ReservedPort, wait_until};

use crate::support::{latencies, open_files, pipeline, run_concurrently, service_b};

const ERRORS: &str = "http_client_request_errors_total";

/// Makes concurrent calls and returns their error kinds.
fn concurrent_calls(service_b: &Process, callers: usize) -> Vec<String> {
    run_concurrently(callers, |_| {
        let response = service_b.get("/call-echo?msg=hello");
        assert!(response.elapsed < testkit::TEST_TIMEOUT / 2, "{response:?}");
        response.json().get("error").and_then(|kind| kind.as_str()).unwrap_or("none").to_owned()
    })
}

/// Waits until service B has no requests in flight and at most `files` open files.
fn wait_until_idle(service_b: &Process, files: usize) {
    service_b.wait_for_metrics("no requests in flight", |page| {
        page.sum("http_client_active_requests", &[]) == 0.0
            && page.sum("http_server_active_requests", &[]) == 0.0
    });
    wait_until("closed sockets", || open_files(service_b) <= files);
}

/// Memory and sockets return to their initial level after every kind of failure, and the size of the bodies
/// bounds the memory in between.
#[test]
fn upstream_faults_leak_nothing() {
    const CALLERS: usize = 64;
    let service_a = FakeServer::start(Reply::echo("hello"));
    // Makes glibc return the memory of freed bodies to the system, so that the resident memory does not
    // depend on how many were read at once.
    let service_b = service_b(service_a.url())
        .env("MALLOC_ARENA_MAX", "1")
        .env("MALLOC_MMAP_THRESHOLD_", "65536")
        .serve();
    assert_eq!(service_b.get("/call-echo?msg=hello").status, 200);
    concurrent_calls(&service_b, CALLERS);
    let endless_start = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7fffffff\r\n";
    let mut memory = 0;
    let mut first = None;
    for round in 0..3 {
        for (reply, kinds) in [
            (Reply::Stall(Vec::new()), &["timeout"][..]),
            (Reply::Stall(Reply::start_of(100, "{")), &["timeout"]),
            (Reply::SlowBody(Reply::start_of(100_000, "{")), &["timeout"]),
            (Reply::Close(Reply::start_of(100, "{")), &["reset"]),
            (Reply::Reset(Reply::start_of(100, "{")), &["reset"]),
            // On a busy machine the timeout elapses before the size limit is reached.
            (Reply::EndlessBody(endless_start.to_vec()), &["decode", "timeout"]),
        ] {
            service_a.set_reply(reply.clone());
            for kind in concurrent_calls(&service_b, CALLERS) {
                assert!(kinds.contains(&kind.as_str()), "{kind} for {reply:?}");
            }
        }
        service_a.set_reply(Reply::echo("hello"));
        assert_eq!(service_b.get("/call-echo?msg=hello").status, 200, "round {round}");
        memory = service_b.resident_kib();
        let first = *first.get_or_insert(memory);
        assert!(memory - first < 8 * 1024, "{memory} KiB after {first} KiB");
    }
    // The sockets that remain are those of the connection pool.
    wait_until_idle(&service_b, 64);
    let peak = service_b.peak_resident_kib();
    println!(
        "{} calls: {memory} KiB after {} KiB, at most {peak} KiB, {} files open",
        3 * 6 * CALLERS,
        first.unwrap(),
        open_files(&service_b)
    );
    // Each call buffers at most 1 MiB of a body, and hyper less than half as much.
    assert!(peak < CALLERS as i64 * 2 * 1024, "{peak} KiB");
}

#[test]
fn connections_are_pooled() {
    let service_a = FakeServer::start(Reply::echo("hello"));
    let service_b = service_b(service_a.url()).serve();
    latencies(service_b.address(), "/call-echo?msg=hello", 200);
    // A connection returns to the pool after its response was read, so the next call may open another.
    let sequential = service_a.connection_count();
    assert!(sequential <= 10, "{sequential}");
    run_concurrently(8, |_| {
        let request = Request::new("GET", "/call-echo?msg=hello");
        pipeline(service_b.address(), std::iter::repeat_n(request, 100));
    });
    let connections = service_a.connection_count();
    println!("1000 calls, at most 8 concurrent, over {connections} connections");
    assert!(connections <= sequential + 24, "{connections}");
    assert_eq!(service_a.requests().len(), 1_000);
}

/// A call succeeds whenever service A works, however often it fails in between.
#[test]
fn flapping_upstream_is_used() {
    let service_a = FakeServer::start(Reply::echo("hello"));
    let service_b = service_b(service_a.url()).serve();
    for _ in 0..50 {
        service_a.set_reply(Reply::Close(Reply::start_of(100, "{")));
        assert_eq!(service_b.get("/call-echo?msg=hello").json()["error"], "reset");
        service_a.set_reply(Reply::echo("hello"));
        assert_eq!(service_b.get("/call-echo?msg=hello").status, 200);
    }
    let page = service_b.metrics();
    assert_eq!(page.sum(ERRORS, &[("error_type", "reset")]), 50.0);
    assert_eq!(page.sum(ERRORS, &[]), 50.0);
}

/// Calls of disconnected clients are dropped and counted as `canceled` only.
#[test]
fn cancelled_calls_are_not_upstream_errors() {
    const CALLERS: usize = 50;
    let service_a = FakeServer::start(Reply::Stall(Vec::new()));
    let service_b = service_b(service_a.url()).env("SERVICE_A_TIMEOUT_MS", "3600000").serve();
    let request = Request::new("GET", "/call-echo?msg=hello");
    let files = open_files(&service_b);
    let callers: Vec<_> = (0..CALLERS).map(|_| request.start(service_b.address())).collect();
    service_a.wait_for_request(CALLERS);
    drop(callers);
    service_a.wait_for_closed_connections(CALLERS);
    let page = service_b.wait_for_metrics("a count of every call", |page| {
        page.sum(ERRORS, &[("error_type", "canceled")]) == CALLERS as f64
    });
    assert_eq!(page.sum(ERRORS, &[]), CALLERS as f64);
    wait_until_idle(&service_b, files + 1);
}

#[test]
fn retries_stay_within_budget() {
    const CALLS: usize = 300;
    let port = ReservedPort::bind();
    let service_b = service_b(port.url()).env("SERVICE_A_CONNECT_RETRIES", "5").serve();
    for _ in 0..CALLS {
        let response = service_b.get("/call-echo?msg=hello");
        assert_eq!(response.json()["error"], "refused");
    }
    let retries = service_b.metrics().sum("http_client_request_retries_total", &[]);
    println!("{CALLS} refused calls: {retries} retries");
    // In ten seconds there are at most ten retries, plus a fifth of the calls.
    assert!((10.0..=CALLS as f64 / 5.0 + 20.0).contains(&retries), "{retries}");
}
