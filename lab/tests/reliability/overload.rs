//! More callers than there is room for, and callers that take their time.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{io, thread};

use testkit::Process;
use testkit::http::{Connection, Request};

use crate::support::{
    at_once, latencies, open_files, p99, service_a, service_b, set_faults, url, wait_until,
};

const DURATION: &str = "http_server_request_duration_seconds_count";

#[test]
fn overload_does_not_slow_admitted_requests() {
    const CAPACITY: usize = 4;
    const CALLERS: usize = 5 * CAPACITY;
    const EACH: usize = 10;
    let service_a = service_a().env("FAULTS_ENABLED", "true").serve();
    set_faults(&service_a, r#"{"delay_ms":50}"#);
    let service_b =
        service_b(url(&service_a)).env("MAX_CONCURRENT_REQUESTS", CAPACITY.to_string()).serve();
    let alone: Vec<_> =
        at_once(CAPACITY, |_| latencies(service_b.address(), "/call-echo?msg=hello", EACH))
            .concat();
    let alone_count = alone.len();
    let alone = p99(alone);

    let shed = AtomicUsize::new(0);
    let (running, most) = (AtomicUsize::new(CALLERS), AtomicUsize::new(0));
    let request = Request::new("GET", "/call-echo?msg=hello").bytes();
    let accepted = at_once(CALLERS + 1, |at| {
        if at == CALLERS {
            watch(&service_b, &service_a, &running, &most);
            return Vec::new();
        }
        let mut connection = Connection::open(service_b.address());
        let mut accepted = Vec::new();
        while accepted.len() < EACH {
            let asked = Instant::now();
            connection.send(&request);
            let answer = connection.answer().unwrap();
            if answer.status == 200 {
                accepted.push(asked.elapsed());
                continue;
            }
            assert_eq!((answer.status, answer.text()), (503, r#"{"error":"overload"}"#));
            assert_eq!(answer.header("retry-after"), Some("1"));
            shed.fetch_add(1, Ordering::SeqCst);
            // A caller that is turned away comes again, but not at once.
            thread::sleep(Duration::from_millis(10));
        }
        running.fetch_sub(1, Ordering::SeqCst);
        accepted
    })
    .concat();
    let shed = shed.into_inner();
    let page = service_b.metrics();
    assert_eq!(page.sum(DURATION, &[("error_type", "overload")]), shed as f64);
    let ok = page.sum(DURATION, &[("http_response_status_code", "200")]);
    assert_eq!(ok, (CALLERS * EACH + alone_count) as f64);
    assert!(shed > CALLERS, "{shed}");
    let most = most.into_inner();
    assert!((1..=CAPACITY).contains(&most), "{most} at a time");
    let crowded = p99(accepted);
    println!(
        "p99 of accepted requests {crowded:.1?}, alone {alone:.1?}; {shed} shed; {most} at a time in A"
    );
    assert!(crowded < 5 * alone, "{crowded:?}, alone {alone:?}");
}

/// While callers run: the probes answer, and A never has more than B may send it.
fn watch(service_b: &Process, service_a: &Process, running: &AtomicUsize, most: &AtomicUsize) {
    while running.load(Ordering::SeqCst) > 0 {
        for target in ["/health", "/livez", "/readyz", "/metrics"] {
            assert_eq!(service_b.get(target).status, 200, "{target}");
        }
        let in_a = service_a.metrics().sum("http_server_active_requests", &[]);
        most.fetch_max(in_a as usize, Ordering::SeqCst);
    }
}

#[test]
fn slow_senders_are_closed() {
    let service = service_a().env("IDLE_TIMEOUT_MS", "300").serve();
    let address = service.address();
    let before = open_files(&service);
    let mut slow: Vec<_> = (0..60).map(|_| Connection::open(address)).collect();
    for half in slow.iter_mut().skip(20) {
        half.send(b"GET /echo HTTP/1.1\r\nHost: a\r\nX: ");
    }
    // Between two requests.
    for idle in slow.iter_mut().skip(40) {
        idle.send(b"x\r\n\r\n");
        assert_eq!(idle.answer().unwrap().status, 200);
    }
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            // A byte now and then is no head either.
            let mut trickling = Connection::open(address);
            for _ in 0..1_500 {
                if is_over.load(Ordering::SeqCst) {
                    break;
                }
                trickling.send(b"x");
                thread::sleep(Duration::from_millis(20));
            }
            assert!(trickling.answer().is_err());
        });
        // Others are served meanwhile.
        let quick = latencies(address, "/echo?msg=hello", 100);
        println!("p99 beside slow connections {:.1?}", p99(quick));
        let waited = Instant::now();
        for connection in &mut slow {
            let rest = match connection.read_to_end() {
                Ok(rest) => rest,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Vec::new(),
                Err(error) => panic!("not closed: {error}"),
            };
            assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 408"), "{rest:?}");
        }
        wait_until("the end of every connection", || open_files(&service) <= before);
        // Far from the 300 ms asked for, and farther from the 30 s that hyper has by itself.
        assert!(waited.elapsed() < Duration::from_secs(15), "{:?}", waited.elapsed());
        is_over.store(true, Ordering::SeqCst);
    });
}

#[test]
fn long_request_outlives_idle_timeout() {
    let service = service_a().env("IDLE_TIMEOUT_MS", "100").env("FAULTS_ENABLED", "true").serve();
    set_faults(&service, r#"{"delay_ms":500}"#);
    let answer = service.get("/echo?msg=hello");
    assert_eq!(answer.text(), r#"{"echo":"hello"}"#);
    println!("answered after {:.1?} over a connection that may be idle for 100 ms", answer.elapsed);
    assert!(answer.elapsed >= Duration::from_millis(500), "{:?}", answer.elapsed);
}

#[test]
fn slow_readers_are_closed() {
    let service = service_a().env("IDLE_TIMEOUT_MS", "300").serve();
    let before = open_files(&service);
    let request = Request::new("GET", &format!("/echo?msg={}", "x".repeat(50_000))).bytes();
    let callers = at_once(4, |_| {
        let mut stream = std::net::TcpStream::connect(service.address()).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(15))).unwrap();
        // Far more than all buffers on the way take; this ends because the service gives up.
        let end = (0..1_000).find_map(|_| io::Write::write_all(&mut stream, &request).err());
        let end = end.expect("the service took all of it").kind();
        assert!(!matches!(end, io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut), "{end}");
        stream
    });
    wait_until("the end of every connection", || open_files(&service) <= before);
    drop(callers);
    let page = service.metrics();
    assert_eq!(page.sum("http_server_active_requests", &[]), 0.0);
    let served = page.sum(DURATION, &[]);
    println!("{served} of 4000 answers were made for callers that read none");
    assert!(served < 2_000.0, "{served}");
}

#[test]
fn an_upload_without_end_is_cut_off() {
    let service = service_a().serve();
    let mut stream = std::net::TcpStream::connect(service.address()).unwrap();
    stream.set_write_timeout(Some(testkit::TEST_TIMEOUT)).unwrap();
    let head = b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    io::Write::write_all(&mut stream, head).unwrap();
    let mut chunk = b"10000\r\n".to_vec();
    chunk.extend([b'x'; 0x10000]);
    chunk.extend(b"\r\n");
    let mut sent = 0;
    // Bounded, so that a service that reads for ever fails this test and no more.
    let end = (0..20_000).find_map(|_| {
        let result = io::Write::write_all(&mut stream, &chunk);
        sent += chunk.len();
        result.err()
    });
    println!("cut off after {} KiB", sent / 1024);
    let end = end.expect("the service took all of it");
    assert!(!matches!(end.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut), "{end}");
    assert_eq!(service.get("/echo").status, 200);
}
