//! Service A is sick in every way there is; B's memory, sockets and tasks stay bounded.

use testkit::http::{Connection, Request};
use testkit::{FakeServer, Process, Reply, ReservedPort};

use crate::support::{at_once, latencies, open_files, pipeline, service_b, wait_until};

const ERRORS: &str = "http_client_request_errors_total";

/// Has so many callers call at once, and gives the words for what went wrong.
fn calls(service_b: &Process, callers: usize) -> Vec<String> {
    at_once(callers, |_| {
        let answer = service_b.get("/call-echo?msg=hello");
        assert!(answer.elapsed < testkit::TEST_TIMEOUT / 2, "{answer:?}");
        answer.json().get("error").and_then(|kind| kind.as_str()).unwrap_or("none").to_owned()
    })
}

/// Waits until B is as idle as it was.
fn at_rest(service_b: &Process, files: usize) {
    service_b.wait_for_metrics("nothing under way", |page| {
        page.sum("http_client_active_requests", &[]) == 0.0
            && page.sum("http_server_active_requests", &[]) == 0.0
    });
    wait_until("sockets as many as before", || open_files(service_b) <= files);
}

#[test]
fn upstream_faults_leak_nothing() {
    const CALLERS: usize = 64;
    let service_a = FakeServer::start(Reply::echo("hello"));
    let service_b = service_b(service_a.url()).env("SERVICE_A_TIMEOUT_MS", "400").serve();
    assert_eq!(service_b.get("/call-echo?msg=hello").status, 200);
    calls(&service_b, CALLERS);
    let start_of_endless = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7fffffff\r\n";
    let mut memory = 0;
    let mut first = None;
    for round in 0..3 {
        for (reply, kinds) in [
            (Reply::Stall(Vec::new()), &["timeout"][..]),
            (Reply::Stall(Reply::start_of(100, "{")), &["timeout"]),
            (Reply::SlowBody(Reply::start_of(100_000, "{")), &["timeout"]),
            (Reply::Close(Reply::start_of(100, "{")), &["reset"]),
            (Reply::Reset(Reply::start_of(100, "{")), &["reset"]),
            // Too long to be an answer, or too slow on a busy machine to be known as such.
            (Reply::EndlessBody(start_of_endless.to_vec()), &["decode", "timeout"]),
        ] {
            service_a.reply(reply.clone());
            for kind in calls(&service_b, CALLERS) {
                assert!(kinds.contains(&kind.as_str()), "{kind} for {reply:?}");
            }
        }
        service_a.reply(Reply::echo("hello"));
        assert_eq!(service_b.get("/call-echo?msg=hello").status, 200, "round {round}");
        memory = service_b.resident_kib();
        let first = *first.get_or_insert(memory);
        assert!(memory - first < 16 * 1024, "{memory} KiB after {first} KiB");
    }
    // What is left is one connection to A, and what a pool of our callers may still hold.
    at_rest(&service_b, 64);
    println!(
        "{} calls: {memory} KiB after {} KiB, {} files open",
        3 * 6 * CALLERS,
        first.unwrap(),
        open_files(&service_b)
    );
}

#[test]
fn connections_are_used_again() {
    let service_a = FakeServer::start(Reply::echo("hello"));
    let service_b = service_b(service_a.url()).serve();
    latencies(service_b.address(), "/call-echo?msg=hello", 200);
    // A connection goes back to the pool just after its answer was read: the next call may be sooner.
    let one_after_the_other = service_a.connections();
    assert!(one_after_the_other <= 10, "{one_after_the_other}");
    at_once(8, |_| {
        let request = Request::new("GET", "/call-echo?msg=hello");
        pipeline(service_b.address(), std::iter::repeat_n(request, 100));
    });
    let connections = service_a.connections();
    println!("1000 calls of at most 8 at a time over {connections} connections");
    assert!(connections <= one_after_the_other + 24, "{connections}");
    assert_eq!(service_a.requests().len(), 1_000);
}

#[test]
fn flapping_upstream_is_used() {
    let service_a = FakeServer::start(Reply::echo("hello"));
    let service_b = service_b(service_a.url()).serve();
    for _ in 0..50 {
        service_a.reply(Reply::Close(Reply::start_of(100, "{")));
        assert_eq!(service_b.get("/call-echo?msg=hello").json()["error"], "reset");
        service_a.reply(Reply::echo("hello"));
        assert_eq!(service_b.get("/call-echo?msg=hello").status, 200);
    }
    let page = service_b.metrics();
    assert_eq!(page.sum(ERRORS, &[("error_type", "reset")]), 50.0);
    assert_eq!(page.sum(ERRORS, &[]), 50.0);
}

#[test]
fn cancelled_calls_are_not_upstream_errors() {
    const CALLERS: usize = 50;
    let service_a = FakeServer::start(Reply::Stall(Vec::new()));
    let service_b = service_b(service_a.url()).env("SERVICE_A_TIMEOUT_MS", "3600000").serve();
    let request = Request::new("GET", "/call-echo?msg=hello").bytes();
    let files = open_files(&service_b);
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let mut caller = Connection::open(service_b.address());
            caller.send(&request);
            caller
        })
        .collect();
    service_a.wait_for_request(CALLERS);
    drop(callers);
    // A sees that nobody wants its answers any more.
    service_a.wait_for_end_of_connection(CALLERS);
    let page = service_b.wait_for_metrics("every call counted", |page| {
        page.sum(ERRORS, &[("error_type", "canceled")]) == CALLERS as f64
    });
    assert_eq!(page.sum(ERRORS, &[]), CALLERS as f64);
    at_rest(&service_b, files + 1);
}

#[test]
fn retries_keep_their_budget() {
    const CALLS: usize = 300;
    let nobody = ReservedPort::take();
    let service_b = service_b(format!("http://{}", nobody.address()))
        .env("SERVICE_A_CONNECT_RETRIES", "5")
        .serve();
    for _ in 0..CALLS {
        let answer = service_b.get("/call-echo?msg=hello");
        assert_eq!(answer.json()["error"], "refused");
    }
    let retries = service_b.metrics().sum("http_client_request_retries_total", &[]);
    println!("{CALLS} calls of nobody: {retries} retries");
    // A fifth of the calls, and ten in ten seconds whatever the calls.
    assert!((10.0..=CALLS as f64 / 5.0 + 20.0).contains(&retries), "{retries}");
}
