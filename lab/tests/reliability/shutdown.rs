//! A stop, or a restart, under load.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use testkit::http::{Connection, Request};
use testkit::otlp::{OtlpCollector, Protocol};
use testkit::{Process, ReservedPort};

use crate::support::{Balancer, at_once, service_a, service_b, url, wait_until};

/// What callers saw until they were told to end.
struct Load {
    end: AtomicBool,
    answered: AtomicUsize,
    /// Answers that said that the connection ends with them.
    farewells: AtomicUsize,
}

impl Load {
    fn new() -> Self {
        let none = || AtomicUsize::new(0);
        Self { end: AtomicBool::new(false), answered: none(), farewells: none() }
    }

    /// One caller, on a connection that is kept for as long as the service keeps it. Every request
    /// has to be answered.
    fn call(&self, address: std::net::SocketAddr, target: &str, is_answer: impl Fn(u16, &str)) {
        let request = Request::new("GET", target).bytes();
        let mut connection = Connection::open(address);
        while !self.end.load(Ordering::SeqCst) {
            connection.send(&request);
            let answer = connection.answer().expect("an answer");
            is_answer(answer.status, answer.text());
            self.answered.fetch_add(1, Ordering::SeqCst);
            if answer.header("connection") == Some("close") {
                self.farewells.fetch_add(1, Ordering::SeqCst);
                connection = Connection::open(address);
            }
        }
    }

    /// Ends it when it is dropped, also where whoever directs it has failed.
    fn ending(&self) -> Ending<'_> {
        Ending(&self.end)
    }

    fn wait_for_more(&self, answers: usize) {
        let goal = self.answered.load(Ordering::SeqCst) + answers;
        wait_until("more answers", || self.answered.load(Ordering::SeqCst) >= goal);
    }
}

struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Callers as a load balancer directs them: they go on until `/readyz` says that the service stops.
fn stop_under_load(service: &Process, target: &str) -> usize {
    let load = Load::new();
    let after = at_once(5, |at| {
        if at < 4 {
            load.call(service.address(), target, |status, text| assert_eq!(status, 200, "{text}"));
            return 0;
        }
        let _ending = load.ending();
        load.wait_for_more(200);
        service.terminate();
        let before = load.answered.load(Ordering::SeqCst);
        wait_until("a service that is not ready", || service.get("/readyz").status == 503);
        // Balancers are not quick to notice.
        load.wait_for_more(50);
        load.answered.load(Ordering::SeqCst) - before
    });
    assert!(after[4] >= 50);
    assert_eq!(service.wait().code, Some(0));
    let answered = load.answered.into_inner();
    println!("{answered} requests, {} of them after SIGTERM, none failed", after[4]);
    assert!(load.farewells.into_inner() >= 4, "connections are kept while it stops");
    answered
}

#[test]
fn shutdown_under_load_is_lossless() {
    let backend = OtlpCollector::start();
    let service_a = service_a().serve();
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let service_b = service_b(url(&service_a))
            .envs(backend.variables(protocol))
            .env("OTEL_BSP_MAX_QUEUE_SIZE", "100000")
            .env("DRAIN_DELAY_MS", "2000")
            .serve();
        let already = backend.spans().len();
        let answered = stop_under_load(&service_b, "/call-echo?msg=hello");
        assert_eq!(backend.spans().len() - already, 2 * answered, "{protocol:?}");
        let log = service_b.log();
        assert!(log.iter().all(|line| line.get("level") == Some("info")));
    }
}

#[test]
fn rolling_restart_is_lossless() {
    let launch = || service_a().env("DRAIN_DELAY_MS", "1000").serve();
    let first = launch();
    let balancer = Balancer::start(first.address());
    let service_b = service_b(format!("http://{}", balancer.address)).serve();
    let load = Load::new();
    let _instances = at_once(5, |at| {
        let mut instances = vec![];
        if at < 4 {
            load.call(service_b.address(), "/call-echo?msg=hello", |status, text| {
                assert_eq!(status, 200, "{text}");
            });
            return instances;
        }
        let _ending = load.ending();
        load.wait_for_more(100);
        for _ in 0..2 {
            let next = launch();
            balancer.send_to(next.address());
            let old = instances.last().unwrap_or(&first);
            assert_eq!(old.stop().code, Some(0));
            load.wait_for_more(100);
            instances.push(next);
        }
        instances
    });
    println!("{} calls, two restarts, none failed", load.answered.into_inner());
    let errors = service_b.metrics().sum("http_client_request_errors_total", &[]);
    assert_eq!(errors, 0.0);
}

#[test]
fn single_restart_fails_only_concurrent_calls() {
    let address = ReservedPort::take().leave();
    let launch =
        || service_a().env("LISTEN_ADDR", address.to_string()).env("DRAIN_DELAY_MS", "300").serve();
    let first = launch();
    let service_b = service_b(format!("http://{address}")).serve();
    let load = Load::new();
    let none = || AtomicUsize::new(0);
    let (refused, reset, good) = (none(), none(), none());
    let _second = at_once(5, |at| {
        if at < 4 {
            load.call(service_b.address(), "/call-echo?msg=hello", |status, text| {
                if status == 200 {
                    good.fetch_add(1, Ordering::SeqCst);
                    return;
                }
                let answer: serde_json::Value = serde_json::from_str(text).unwrap();
                match answer["error"].as_str() {
                    Some("refused") => refused.fetch_add(1, Ordering::SeqCst),
                    Some("reset") => reset.fetch_add(1, Ordering::SeqCst),
                    _ => panic!("{answer}"),
                };
            });
            return None;
        }
        let _ending = load.ending();
        load.wait_for_more(100);
        assert_eq!(first.stop().code, Some(0));
        wait_until("a refused call", || refused.load(Ordering::SeqCst) > 0);
        let second = launch();
        let already = good.load(Ordering::SeqCst);
        wait_until("good calls again", || good.load(Ordering::SeqCst) > already + 100);
        Some(second)
    });
    let (refused, reset) = (refused.into_inner(), reset.into_inner());
    println!("{refused} calls were refused and {reset} reset while there was no A");
    // What had connected in the instant before A closed, and was not accepted yet: one a caller.
    assert!(reset <= 4, "{reset}");
}
