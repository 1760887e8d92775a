//! Calls during an outage of the DNS.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed assumption fails the test")]

use std::net::UdpSocket;

use testkit::http::Request;
use testkit::network::{NAME_SERVER, in_isolated_network};
use testkit::{Process, ProcessBuilder};

fn thread_count(service: &Process) -> usize {
    std::fs::read_dir(format!("/proc/{}/task", service.id())).unwrap().count()
}

/// Calls `hosts` at the same time and checks that each call times out.
fn call_all(service: &Process, hosts: impl Iterator<Item = String>) {
    let calls: Vec<_> = hosts
        .map(|host| Request::new("GET", &format!("/{host}/text")).start(service.address()))
        .collect();
    for mut call in calls {
        assert_eq!(call.response().unwrap().text(), "timeout");
    }
}

/// Lookups that hang occupy a bounded number of threads, and neither scrapes nor the shutdown wait for them.
#[test]
#[ignore = "needs a network namespace: .ci/run reliability"]
fn hanging_lookups_are_bounded() {
    in_isolated_network("hanging_lookups_are_bounded", || {
        let _name_server = UdpSocket::bind((NAME_SERVER, 53)).unwrap();
        let service = ProcessBuilder::example("caller")
            .env("UPSTREAM_URL", "http://a.test:8080")
            .env("CALL_TIMEOUT_MS", "100")
            .serve();
        service.metrics();
        let idle = thread_count(&service);
        for _ in 0..12 {
            call_all(&service, (0..50).map(|_| "a.test".to_owned()));
        }
        let one_host = thread_count(&service) - idle;
        call_all(&service, (0..100).map(|host| format!("{host}.test")));
        let many_hosts = thread_count(&service) - idle;
        println!("{one_host} threads for 600 calls to a host, {many_hosts} for calls to 101 hosts");
        assert!(one_host <= 1, "{one_host} threads");
        assert!(many_hosts <= 16, "{many_hosts} threads");
        let labels = [("error_type", "timeout")];
        let page = service.metrics();
        assert_eq!(page.sum("http_client_request_errors_total", &labels), 700.0);
        assert_eq!(service.stop().code, Some(0));
    });
}
