//! Many requests: memory, series and counts stay what they are.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use testkit::http::Request;
use testkit::prometheus::Page;
use testkit::{FakeServer, Process, Reply};

use crate::support::{Numbers, at_once, many, pipeline, service_a, service_b};

const DURATION: &str = "http_server_request_duration_seconds";

/// Sends so many requests from two connections.
fn send(service: &Process, requests: usize) {
    at_once(2, |_| {
        let request = Request::new("GET", "/echo?msg=hello");
        let statuses =
            pipeline(service.address(), std::iter::repeat_n(request.clone(), requests / 2));
        assert!(statuses.iter().all(|status| *status == 200));
    });
}

/// How much resident memory grows, in KiB, from when a service is warm to after so many requests.
fn growth(service: &Process, warm_up: usize, requests: usize) -> i64 {
    send(service, warm_up);
    let before = service.resident_kib();
    send(service, requests);
    let growth = service.resident_kib() - before;
    println!("{requests} requests: {before} KiB and {growth} KiB more");
    growth
}

#[test]
fn memory_is_bounded_without_scrapes() {
    let backend = FakeServer::start(Reply::Stall(Vec::new()));
    let service = service_a().env("OTEL_EXPORTER_OTLP_ENDPOINT", backend.url()).serve();
    // The queue of spans fills in the warm-up. Without its bound each request would cost about 1 KiB.
    let requests = many(20_000);
    let growth = growth(&service, 6_000, requests);
    assert!(growth < 10 * 1024, "{growth} KiB");
}

#[test]
#[ignore = "a million requests: for an optimized build"]
fn memory_is_bounded_over_an_hour() {
    let service = service_a().env("RUST_LOG", "info,access=off").serve();
    // Samples that wait for a scrape would take 16 bytes each and more.
    let growth = growth(&service, 200_000, 1_500_000);
    assert!(growth < 8 * 1024, "{growth} KiB");
}

#[test]
fn concurrent_scrapes_are_monotonic() {
    const REQUESTS: usize = 2_000;
    let service = service_a().serve();
    assert_eq!(service.get("/echo?msg=hello").status, 200);
    let running = AtomicUsize::new(3);
    let scrapes = at_once(6, |at| {
        if at < 3 {
            let request = Request::new("GET", "/echo?msg=hello");
            pipeline(service.address(), std::iter::repeat_n(request, REQUESTS));
            running.fetch_sub(1, Ordering::SeqCst);
            return 0;
        }
        let (mut scrapes, mut last) = (0, 0.0);
        loop {
            let is_last = running.load(Ordering::SeqCst) == 0;
            let count = check_histogram(&service.metrics());
            assert!(count >= last, "{count} after {last}");
            last = count;
            scrapes += 1;
            if is_last {
                assert_eq!(count, (3 * REQUESTS + 1) as f64);
                return scrapes;
            }
        }
    });
    println!("{} requests beside {} scrapes", 3 * REQUESTS, scrapes.iter().sum::<i32>());
}

/// The one series there is has buckets that grow up to its count.
fn check_histogram(page: &Page) -> f64 {
    let buckets: Vec<f64> =
        page.named(&format!("{DURATION}_bucket")).map(|bucket| bucket.value).collect();
    assert_eq!(buckets.len(), 15);
    assert!(buckets.is_sorted(), "{buckets:?}");
    let count = page.value(&format!("{DURATION}_count"), &[]).unwrap();
    assert_eq!(buckets.last(), Some(&count));
    count
}

/// A request in which all that a client can choose is chosen at random.
fn hostile(numbers: &mut Numbers) -> Request {
    let word = format!("{:016x}", numbers.next());
    let methods = ["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", &word];
    let method = (*numbers.of(&methods)).to_owned();
    let target = match numbers.next() % 8 {
        0 => "/call-echo".to_owned(),
        1 => format!("/call-echo?{word}={word}"),
        2 => format!("/call-echo/{word}"),
        3 => format!("http://{word}.test/{word}"),
        _ => format!("/{word}?{word}"),
    };
    let (high, low) = (numbers.next(), numbers.next());
    Request::new(&method, &target)
        .header("Host", &format!("{word}.test"))
        .header("User-Agent", &word)
        .header(&format!("x-{word}"), &word)
        .header("X-Forwarded-Proto", &word)
        .header("Forwarded", &format!("for={word};proto={word}"))
        .header("traceparent", &format!("00-{high:016x}{low:016x}-{word}-01"))
        .header("tracestate", &format!("k{word}={word}"))
}

/// Every series, without its value.
fn series(page: &Page) -> BTreeSet<String> {
    page.samples.iter().map(|sample| format!("{} {:?}", sample.name, sample.labels)).collect()
}

#[test]
fn a_cardinality_attack_makes_no_series() {
    let service_a = FakeServer::start(Reply::echo("hello"));
    let service_b = service_b(service_a.url()).env("RUST_LOG", "info,access=off").serve();
    let attack = |seed: u64, requests: usize| {
        at_once(2, |at| {
            let mut numbers = Numbers(seed + at as u64);
            pipeline(
                service_b.address(),
                std::iter::repeat_with(|| hostile(&mut numbers)).take(requests / 2),
            );
        });
    };
    // Every combination of method, route and status that there is has its series after this.
    attack(1, 2_000);
    let before = service_b.metrics();
    let requests = many(10_000);
    attack(1_000_000_007, requests);
    let after = service_b.metrics();
    assert_eq!(series(&after), series(&before));
    let count = |page: &Page| page.sum(&format!("{DURATION}_count"), &[]);
    assert_eq!(count(&after) - count(&before), requests as f64);
    println!("{requests} requests, {} series before and after", series(&after).len());
}
