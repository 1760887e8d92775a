//! Overload, and clients that send or read slowly.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{io, iter, thread};

use testkit::http::{Connection, Request};
use testkit::{Process, wait_until};

use crate::support::{latencies, open_files, p99, run_concurrently, service_a, service_b};

const DURATION: &str = "http_server_request_duration_seconds_count";

/// At five times the capacity admitted requests are as fast as before, and the others are rejected.
#[test]
fn overload_does_not_slow_admitted_requests() {
    const CAPACITY: usize = 4;
    const CALLERS: usize = 5 * CAPACITY;
    const REQUESTS_PER_CALLER: usize = 10;
    let service_a = service_a().env("FAULTS_ENABLED", "true").serve();
    service_a.set_faults(r#"{"delay_ms":50}"#);
    let service_b =
        service_b(service_a.url()).env("MAX_CONCURRENT_REQUESTS", CAPACITY.to_string()).serve();
    let unloaded = run_concurrently(CAPACITY, |_| {
        latencies(service_b.address(), "/call-echo?msg=hello", REQUESTS_PER_CALLER)
    })
    .concat();
    let unloaded_count = unloaded.len();
    let unloaded = p99(unloaded);

    let rejected = AtomicUsize::new(0);
    let (running, max_active) = (AtomicUsize::new(CALLERS), AtomicUsize::new(0));
    let request = Request::new("GET", "/call-echo?msg=hello").to_bytes();
    let admitted = run_concurrently(CALLERS + 1, |index| {
        if index == CALLERS {
            watch(&service_b, &service_a, &running, &max_active);
            return Vec::new();
        }
        let mut connection = Connection::open(service_b.address());
        let mut admitted = Vec::new();
        while admitted.len() < REQUESTS_PER_CALLER {
            let start = Instant::now();
            connection.send(&request);
            let response = connection.response().unwrap();
            if response.status == 200 {
                admitted.push(start.elapsed());
                continue;
            }
            assert_eq!((response.status, response.text()), (503, r#"{"error":"overload"}"#));
            assert_eq!(response.header("retry-after"), Some("1"));
            rejected.fetch_add(1, Ordering::SeqCst);
            // Clients retry with a delay.
            thread::sleep(Duration::from_millis(10));
        }
        running.fetch_sub(1, Ordering::SeqCst);
        admitted
    })
    .concat();
    let rejected = rejected.into_inner();
    let page = service_b.metrics();
    assert_eq!(page.sum(DURATION, &[("error_type", "overload")]), rejected as f64);
    let ok = page.sum(DURATION, &[("http_response_status_code", "200")]);
    assert_eq!(ok, (CALLERS * REQUESTS_PER_CALLER + unloaded_count) as f64);
    assert!(rejected > CALLERS, "{rejected}");
    let max_active = max_active.into_inner();
    assert!((1..=CAPACITY).contains(&max_active), "{max_active} active requests");
    let overloaded = p99(admitted);
    println!(
        "p99 of admitted requests {overloaded:.1?}, without overload {unloaded:.1?}; {rejected} rejected; at most {max_active} active in service A"
    );
    assert!(overloaded < 5 * unloaded, "{overloaded:?}, without overload {unloaded:?}");
}

/// Checks probes and metrics while callers run. Records the maximum number of active requests of service A.
fn watch(
    service_b: &Process,
    service_a: &Process,
    running: &AtomicUsize,
    max_active: &AtomicUsize,
) {
    while running.load(Ordering::SeqCst) > 0 {
        for target in ["/health", "/livez", "/readyz", "/metrics"] {
            assert_eq!(service_b.get(target).status, 200, "{target}");
        }
        let active = service_a.metrics().sum("http_server_active_requests", &[]);
        max_active.fetch_max(active as usize, Ordering::SeqCst);
    }
}

/// Connections that send nothing, a partial request, a byte now and then or no second request are closed
/// after the idle timeout and delay no other client.
#[test]
fn slow_senders_are_closed() {
    let service = service_a().env("IDLE_TIMEOUT_MS", "300").serve();
    let address = service.address();
    let before = open_files(&service);
    let mut slow: Vec<_> = (0..60).map(|_| Connection::open(address)).collect();
    for partial in slow.iter_mut().skip(20) {
        partial.send(b"GET /echo HTTP/1.1\r\nHost: a\r\nX: ");
    }
    for idle in slow.iter_mut().skip(40) {
        idle.send(b"x\r\n\r\n");
        assert_eq!(idle.response().unwrap().status, 200);
    }
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut trickling = Connection::open(address);
            for _ in 0..1_500 {
                if is_done.load(Ordering::SeqCst) {
                    break;
                }
                trickling.send(b"x");
                thread::sleep(Duration::from_millis(20));
            }
            assert!(trickling.response().is_err());
        });
        let others = latencies(address, "/echo?msg=hello", 100);
        println!("p99 beside slow connections {:.1?}", p99(others));
        let start = Instant::now();
        for connection in &mut slow {
            let rest = match connection.read_to_end() {
                Ok(rest) => rest,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Vec::new(),
                Err(error) => panic!("not closed: {error}"),
            };
            assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 408"), "{rest:?}");
        }
        wait_until("closed connections", || open_files(&service) <= before);
        // Allows for a busy machine and is still below hyper's default timeout of 30 s.
        assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
        is_done.store(true, Ordering::SeqCst);
    });
}

/// The idle timeout does not apply while a request is in flight.
#[test]
fn long_request_outlives_idle_timeout() {
    let service = service_a().env("IDLE_TIMEOUT_MS", "100").env("FAULTS_ENABLED", "true").serve();
    service.set_faults(r#"{"delay_ms":500}"#);
    let response = service.get("/echo?msg=hello");
    assert_eq!(response.text(), r#"{"echo":"hello"}"#);
    println!("response after {:.1?}, idle timeout 100 ms", response.elapsed);
    assert!(response.elapsed >= Duration::from_millis(500), "{:?}", response.elapsed);
}

/// Connections of clients that do not read their responses are closed after the idle timeout.
#[test]
fn slow_readers_are_closed() {
    let service = service_a().env("IDLE_TIMEOUT_MS", "300").serve();
    let before = open_files(&service);
    let request = Request::new("GET", &format!("/echo?msg={}", "x".repeat(50_000))).to_bytes();
    let start = Instant::now();
    let clients = run_concurrently(4, |_| {
        let mut connection = Connection::open(service.address());
        // The requests exceed all buffers, so sending ends when the service closes the connection.
        assert_send_fails(&mut connection, iter::repeat_n(request.as_slice(), 1_000));
        connection
    });
    // Allows for a busy machine and is still below the write timeout of the client.
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    wait_until("closed connections", || open_files(&service) <= before);
    drop(clients);
    let page = service.metrics();
    assert_eq!(page.sum("http_server_active_requests", &[]), 0.0);
    let served = page.sum(DURATION, &[]);
    println!("{served} of 4000 responses created for clients that read none");
    assert!(served < 2_000.0, "{served}");
}

/// The service aborts a request whose body never ends.
#[test]
fn endless_upload_is_aborted() {
    const MAX_CHUNKS: usize = 20_000;
    let service = service_a().serve();
    let mut connection = Connection::open(service.address());
    let headers = b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    connection.try_send(headers).unwrap();
    let chunk = [b"10000\r\n".as_slice(), &[b'x'; 0x10000], b"\r\n"].concat();
    // Limited, so that a service that never stops reading fails this test only.
    let sent = assert_send_fails(&mut connection, iter::repeat_n(chunk.as_slice(), MAX_CHUNKS));
    println!("aborted after {} KiB", sent / 1024);
    assert_eq!(service.get("/echo").status, 200);
}

/// Sends blocks until the service closes the connection. Returns the number of bytes sent, including the
/// block that failed.
fn assert_send_fails<'a>(
    connection: &mut Connection,
    blocks: impl Iterator<Item = &'a [u8]>,
) -> usize {
    let mut sent = 0;
    for block in blocks {
        sent += block.len();
        if let Err(error) = connection.try_send(block) {
            let is_timeout =
                matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
            assert!(!is_timeout, "the service neither reads nor closes: {error}");
            return sent;
        }
    }
    panic!("the service read all {sent} bytes");
}
