//! Sustained load: memory, series and counts.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use testkit::http::Request;
use testkit::prometheus::Page;
use testkit::{FakeServer, Process, Reply};

use crate::support::{Rng, pipeline, request_count, run_concurrently, service_a, service_b};

const DURATION: &str = "http_server_request_duration_seconds";

/// Sends requests on two connections.
fn send_requests(service: &Process, requests: usize) {
    run_concurrently(2, |_| {
        let request = Request::new("GET", "/echo?msg=hello");
        let statuses =
            pipeline(service.address(), std::iter::repeat_n(request.clone(), requests / 2));
        assert!(statuses.iter().all(|status| *status == 200));
    });
}

/// Returns the growth of the resident memory in KiB during `requests`, after a warm-up.
fn memory_growth(service: &Process, warm_up: usize, requests: usize) -> i64 {
    send_requests(service, warm_up);
    let before = service.resident_kib();
    send_requests(service, requests);
    let growth = service.resident_kib() - before;
    println!("{requests} requests: {before} KiB and {growth} KiB more");
    growth
}

/// Memory stays bounded although the OTLP backend accepts no span.
#[test]
fn memory_is_bounded_without_scrapes() {
    let collector = FakeServer::start(Reply::Stall(Vec::new()));
    let service = service_a().env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url()).serve();
    // The span queue fills during the warm-up. Without a limit each request would add about 1 KiB.
    let requests = request_count(20_000);
    let growth = memory_growth(&service, 6_000, requests);
    assert!(growth < 10 * 1024, "{growth} KiB");
}

/// Memory stays bounded without scrapes.
#[test]
#[ignore = "sends a million requests and needs an optimized build"]
fn memory_is_bounded_over_an_hour() {
    let service = service_a().env("RUST_LOG", "info,access=off").serve();
    // A sample that waits for a scrape would take at least 16 bytes.
    let growth = memory_growth(&service, 200_000, 1_500_000);
    assert!(growth < 8 * 1024, "{growth} KiB");
}

/// Counts never decrease between scrapes, and the last scrape contains every request.
#[test]
fn concurrent_scrapes_are_monotonic() {
    const REQUESTS: usize = 2_000;
    let service = service_a().serve();
    assert_eq!(service.get("/echo?msg=hello").status, 200);
    let running = AtomicUsize::new(3);
    let scrapes = run_concurrently(6, |index| {
        if index < 3 {
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
    println!("{} requests during {} scrapes", 3 * REQUESTS, scrapes.iter().sum::<i32>());
}

/// Checks the buckets of the only duration series and returns its count.
fn check_histogram(page: &Page) -> f64 {
    let buckets: Vec<f64> =
        page.named(&format!("{DURATION}_bucket")).map(|bucket| bucket.value).collect();
    assert_eq!(buckets.len(), 19);
    assert!(buckets.is_sorted(), "{buckets:?}");
    let count = page.value(&format!("{DURATION}_count"), &[]).unwrap();
    assert_eq!(buckets.last(), Some(&count));
    count
}

/// Creates a request with random values in every part that a client controls.
fn random_request(rng: &mut Rng) -> Request {
    let word = format!("{:016x}", rng.next());
    let methods = ["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", &word];
    let method = (*rng.choose(&methods)).to_owned();
    let target = match rng.next() % 8 {
        0 => "/call-echo".to_owned(),
        1 => format!("/call-echo?{word}={word}"),
        2 => format!("/call-echo/{word}"),
        3 => format!("http://{word}.test/{word}"),
        _ => format!("/{word}?{word}"),
    };
    let (high, low) = (rng.next(), rng.next());
    Request::new(&method, &target)
        .header("Host", &format!("{word}.test"))
        .header("User-Agent", &word)
        .header(&format!("x-{word}"), &word)
        .header("X-Forwarded-Proto", &word)
        .header("Forwarded", &format!("for={word};proto={word}"))
        .header("traceparent", &format!("00-{high:016x}{low:016x}-{word}-01"))
        .header("tracestate", &format!("k{word}={word}"))
}

/// Returns the name and labels of every series.
fn series(page: &Page) -> BTreeSet<String> {
    page.samples.iter().map(|sample| format!("{} {:?}", sample.name, sample.labels)).collect()
}

/// Random paths, methods, hosts, headers, queries and trace ids create no series.
#[test]
fn random_requests_add_no_series() {
    let service_a = FakeServer::start(Reply::echo("hello"));
    let service_b = service_b(service_a.url()).env("RUST_LOG", "info,access=off").serve();
    let send_random = |seed: u64, requests: usize| {
        run_concurrently(2, |index| {
            let mut rng = Rng(seed + index as u64);
            pipeline(
                service_b.address(),
                std::iter::repeat_with(|| random_request(&mut rng)).take(requests / 2),
            );
        });
    };
    // Creates the series for every combination of method, route and status.
    send_random(1, 2_000);
    let before = service_b.metrics();
    let requests = request_count(10_000);
    send_random(1_000_000_007, requests);
    let after = service_b.metrics();
    assert_eq!(series(&after), series(&before));
    let count = |page: &Page| page.sum(&format!("{DURATION}_count"), &[]);
    assert_eq!(count(&after) - count(&before), requests as f64);
    println!("{requests} requests, {} series before and after", series(&after).len());
}
