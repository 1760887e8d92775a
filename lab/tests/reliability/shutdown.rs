//! Shutdown and restart under load.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use testkit::http::{Connection, Request};
use testkit::otlp::{OtlpCollector, Protocol};
use testkit::{Process, ReservedPort, wait_until};

use crate::support::{LoadBalancer, run_concurrently, service_a, service_b};

/// State shared by the clients of a load test.
#[derive(Default)]
struct Load {
    is_stopped: AtomicBool,
    responses: AtomicUsize,
    /// Responses with `Connection: close`.
    closing_responses: AtomicUsize,
}

impl Load {
    /// Sends requests until the load is stopped and checks each response. Every request must receive one.
    /// The connection is reused until the service closes it.
    fn run_client(
        &self,
        address: std::net::SocketAddr,
        target: &str,
        check_response: impl Fn(u16, &str),
    ) {
        let request = Request::new("GET", target).to_bytes();
        let mut connection = Connection::open(address);
        while !self.is_stopped.load(Ordering::SeqCst) {
            connection.send(&request);
            let response = connection.response().expect("a response");
            check_response(response.status, response.text());
            self.responses.fetch_add(1, Ordering::SeqCst);
            if response.header("connection") == Some("close") {
                self.closing_responses.fetch_add(1, Ordering::SeqCst);
                connection = Connection::open(address);
            }
        }
    }

    /// Returns a guard that stops the load when it is dropped, even if the test fails.
    fn stop_guard(&self) -> StopGuard<'_> {
        StopGuard(&self.is_stopped)
    }

    /// Waits for this many further responses.
    fn wait_for_responses(&self, count: usize) {
        let target = self.responses.load(Ordering::SeqCst) + count;
        wait_until("more responses", || self.responses.load(Ordering::SeqCst) >= target);
    }
}

struct StopGuard<'a>(&'a AtomicBool);

impl Drop for StopGuard<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Shuts the service down while clients send requests until `/readyz` fails, like clients of a load
/// balancer. Returns the number of responses.
fn shut_down_under_load(service: &Process, target: &str) -> usize {
    let load = Load::default();
    let after = run_concurrently(5, |index| {
        if index < 4 {
            load.run_client(service.address(), target, |status, text| {
                assert_eq!(status, 200, "{text}")
            });
            return 0;
        }
        let _stop = load.stop_guard();
        load.wait_for_responses(200);
        service.terminate();
        let before = load.responses.load(Ordering::SeqCst);
        wait_until("a failing /readyz", || service.get("/readyz").status == 503);
        // A load balancer notices the failing probe after a delay.
        load.wait_for_responses(50);
        load.responses.load(Ordering::SeqCst) - before
    });
    assert!(after[4] >= 50);
    assert_eq!(service.wait().code, Some(0));
    let responses = load.responses.into_inner();
    println!("{responses} requests, {} of them after SIGTERM, none failed", after[4]);
    assert!(load.closing_responses.into_inner() >= 4, "connections are kept during shutdown");
    responses
}

/// No request fails, every span arrives, and no warning is logged.
#[test]
fn shutdown_under_load_is_lossless() {
    let collector = OtlpCollector::start();
    let service_a = service_a().serve();
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let service_b = service_b(service_a.url())
            .envs(collector.variables(protocol))
            .env("OTEL_BSP_MAX_QUEUE_SIZE", "100000")
            .env("DRAIN_DELAY_MS", "2000")
            .serve();
        let earlier = collector.spans().len();
        let responses = shut_down_under_load(&service_b, "/call-echo?msg=hello");
        assert_eq!(collector.spans().len() - earlier, 2 * responses, "{protocol:?}");
        let log = service_b.log();
        assert!(log.iter().all(|line| line.get("level") == Some("info")));
    }
}

/// No call of service B fails while the instances of service A behind a load balancer are replaced.
#[test]
fn rolling_restart_is_lossless() {
    let start_instance = || service_a().env("DRAIN_DELAY_MS", "1000").serve();
    let first = start_instance();
    let balancer = LoadBalancer::start(first.address());
    let service_b = service_b(format!("http://{}", balancer.address)).serve();
    let load = Load::default();
    let _instances = run_concurrently(5, |index| {
        let mut instances = vec![];
        if index < 4 {
            load.run_client(service_b.address(), "/call-echo?msg=hello", |status, text| {
                assert_eq!(status, 200, "{text}");
            });
            return instances;
        }
        let _stop = load.stop_guard();
        load.wait_for_responses(100);
        for _ in 0..2 {
            let next = start_instance();
            balancer.set_target(next.address());
            let old = instances.last().unwrap_or(&first);
            assert_eq!(old.stop().code, Some(0));
            load.wait_for_responses(100);
            instances.push(next);
        }
        instances
    });
    println!("{} calls, two restarts, none failed", load.responses.into_inner());
    let errors = service_b.metrics().sum("http_client_request_errors_total", &[]);
    assert_eq!(errors, 0.0);
}

/// A restart of the only instance of service A fails only the calls made while it is down.
#[test]
fn single_restart_fails_only_concurrent_calls() {
    let address = ReservedPort::bind().release();
    let start_service_a =
        || service_a().env("LISTEN_ADDR", address.to_string()).env("DRAIN_DELAY_MS", "300").serve();
    let first = start_service_a();
    let service_b = service_b(format!("http://{address}")).serve();
    let load = Load::default();
    let [refused, reset, succeeded] = [const { AtomicUsize::new(0) }; 3];
    let _second = run_concurrently(5, |index| {
        if index < 4 {
            load.run_client(service_b.address(), "/call-echo?msg=hello", |status, text| {
                if status == 200 {
                    succeeded.fetch_add(1, Ordering::SeqCst);
                    return;
                }
                let response: serde_json::Value = serde_json::from_str(text).unwrap();
                match response["error"].as_str() {
                    Some("refused") => refused.fetch_add(1, Ordering::SeqCst),
                    Some("reset") => reset.fetch_add(1, Ordering::SeqCst),
                    _ => panic!("{response}"),
                };
            });
            return None;
        }
        let _stop = load.stop_guard();
        load.wait_for_responses(100);
        assert_eq!(first.stop().code, Some(0));
        wait_until("a refused call", || refused.load(Ordering::SeqCst) > 0);
        let second = start_service_a();
        let earlier = succeeded.load(Ordering::SeqCst);
        wait_until("successful calls", || succeeded.load(Ordering::SeqCst) > earlier + 100);
        Some(second)
    });
    let (refused, reset) = (refused.into_inner(), reset.into_inner());
    println!("{refused} calls refused and {reset} reset while service A was down");
    // Closing the listener resets connections that are not yet accepted, at most one per client.
    assert!(reset <= 4, "{reset}");
}
