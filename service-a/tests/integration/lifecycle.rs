//! How it starts and, above all, how it stops.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use testkit::http::{Connection, Request};
use testkit::{Process, otlp};

use crate::{faulty, service_a, set_faults};

/// Longer than any wait of the tests: where it is used, nothing may need the shutdown's whole time.
const NEVER: &str = "3600000";

fn wait_until_stopping(service: &Process) {
    service
        .wait_for_line("the line that says it stops", |line| line.get("msg") == Some("stopping"));
}

/// A request that `/echo` has begun to serve and not answered.
fn in_flight(service: &Process) -> Connection {
    let mut connection = Connection::open(service.address());
    connection.send(&Request::new("GET", "/echo?msg=hello").bytes());
    service.wait_for_metrics("a request in flight", |page| {
        page.value("http_server_active_requests", &[("http_request_method", "GET")]) == Some(1.0)
    });
    connection
}

#[test]
fn the_first_line_says_where_it_listens() {
    let service = service_a().serve();
    let address = service.address();
    assert!(address.ip().is_loopback() && address.port() != 0, "{address}");
    assert_eq!(service.get("/health").status, 200);
    assert_eq!(service.log()[0].keys(), ["ts", "level", "service", "target", "msg", "address"]);
}

#[test]
fn shutdown_completes_in_flight_request() {
    let service = faulty(r#"{"delay_ms":700}"#);
    let mut connection = in_flight(&service);
    service.terminate();
    let answer = connection.answer().unwrap();
    assert_eq!((answer.status, answer.text()), (200, r#"{"echo":"hello"}"#));
    let exit = service.wait();
    assert_eq!((exit.code, exit.stderr.len()), (Some(0), 0), "{exit:?}");
    let log = service.log();
    let at = |is: &dyn Fn(&testkit::LogLine) -> bool| log.iter().position(is).unwrap();
    let stopping = at(&|line| line.get("msg") == Some("stopping"));
    let access = at(&|line| line.get("endpoint") == Some("/echo"));
    let stopped = at(&|line| line.get("msg") == Some("stopped"));
    assert!(stopping < access && access < stopped, "{log:#?}");
    assert_eq!(&log[stopping]["signal"], "SIGTERM");
    assert_eq!(stopped, log.len() - 1);
}

#[test]
fn an_interrupt_stops_it_as_well() {
    let service = service_a().serve();
    service.interrupt();
    assert_eq!(service.wait().code, Some(0));
    assert!(service.log().iter().any(|line| line.get("signal") == Some("SIGINT")));
}

#[test]
fn its_spans_are_sent_before_it_ends() {
    for protocol in [otlp::Protocol::Grpc, otlp::Protocol::HttpProtobuf] {
        let backend = otlp::OtlpCollector::start();
        let service = service_a()
            .envs(backend.variables(protocol))
            .env("OTEL_BSP_SCHEDULE_DELAY", NEVER)
            .serve();
        let trace_ids: Vec<_> =
            (0..10).map(|_| service.get("/echo").trace_id().to_owned()).collect();
        assert_eq!(backend.spans().len(), 0);
        assert_eq!(service.stop().code, Some(0));
        for trace_id in trace_ids {
            backend.wait_for_trace(&trace_id, 1);
        }
    }
}

#[test]
fn drain_delay_serves_and_reports_unready() {
    let service =
        service_a().env("DRAIN_DELAY_MS", NEVER).env("SHUTDOWN_TIMEOUT_MS", NEVER).serve();
    assert_eq!(service.get("/readyz").status, 200);
    service.terminate();
    wait_until_stopping(&service);
    let ready = service.get("/readyz");
    assert_eq!((ready.status, ready.text()), (503, r#"{"status":"draining"}"#));
    assert_eq!(service.get("/livez").status, 200);
    assert_eq!(service.get("/health").status, 200);
    assert_eq!(service.get("/echo?msg=hello").text(), r#"{"echo":"hello"}"#);

    // The way out for one who will not wait.
    service.terminate();
    let exit = service.wait();
    assert_eq!(exit.code, Some(1));
    assert!(exit.stderr[0].contains("second signal"), "{exit:?}");
}

#[test]
fn the_drain_delay_ends_by_itself() {
    let service = service_a().env("DRAIN_DELAY_MS", "100").serve();
    assert_eq!(service.stop().code, Some(0));
}

#[test]
fn shutdown_timeout_bounds_drain_delay() {
    let service =
        service_a().env("DRAIN_DELAY_MS", NEVER).env("SHUTDOWN_TIMEOUT_MS", "200").serve();
    assert_eq!(service.stop().code, Some(0));
}

#[test]
fn second_signal_exits_immediately() {
    let service =
        service_a().env("FAULTS_ENABLED", "true").env("SHUTDOWN_TIMEOUT_MS", NEVER).serve();
    set_faults(&service, r#"{"hang":true}"#);
    let _connection = in_flight(&service);
    service.terminate();
    wait_until_stopping(&service);
    let asked_again = Instant::now();
    service.interrupt();
    assert_eq!(service.wait().code, Some(1));
    println!("ended {:.1?} after the second signal", asked_again.elapsed());
}

#[test]
fn shutdown_timeout_aborts_request() {
    let backend = otlp::OtlpCollector::start();
    let service = service_a()
        .env("FAULTS_ENABLED", "true")
        .env("SHUTDOWN_TIMEOUT_MS", "2000")
        .envs(backend.variables(otlp::Protocol::Grpc))
        .serve();
    set_faults(&service, r#"{"hang":true}"#);
    let mut connection = in_flight(&service);
    let asked = Instant::now();
    assert_eq!(service.stop().code, Some(0));
    let took = asked.elapsed();
    println!("a request that never ends: stopped after {took:.1?} of 2 s");
    // Far from the limit set, and farther from the 10 s that hold where none is.
    assert!(took < Duration::from_secs(6), "{took:?}");
    assert!(connection.answer().is_err());
    let log = service.log();
    let access = log.iter().find(|line| line.get("endpoint").is_some()).unwrap();
    assert_eq!(&access["error"], "canceled");
    backend.wait_for_trace(&access["trace_id"], 1);
}

#[test]
fn idle_connections_do_not_block_shutdown() {
    let service = service_a().env("SHUTDOWN_TIMEOUT_MS", "6000").serve();
    let address = service.address();
    let silent = Connection::open(address);
    let mut half = Connection::open(address);
    half.send(b"GET /echo HTTP/1.1\r\nHo");
    let mut used = Connection::open(address);
    used.send(&Request::new("GET", "/echo").bytes());
    used.answer().unwrap();
    // The last to be accepted was served, so the first two were accepted as well.
    let exit = service.stop();
    assert_eq!(exit.code, Some(0));
    assert!(!exit.stdout.iter().any(|line| line.contains("cut off")), "{exit:?}");
    drop((silent, half, used));
}

#[test]
fn hung_backend_does_not_block_shutdown() {
    let backend = testkit::FakeServer::start(testkit::Reply::Stall(Vec::new()));
    does_not_keep_it_from_stopping(&backend.url());
}

#[cfg(target_os = "linux")]
#[test]
fn blackholed_backend_does_not_block_shutdown() {
    let (backend, _sockets) = testkit::listener_with_full_backlog();
    does_not_keep_it_from_stopping(&format!("http://{backend}"));
}

fn does_not_keep_it_from_stopping(backend: &str) {
    for protocol in ["grpc", "http/protobuf"] {
        let service = service_a()
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", backend)
            .env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
            .env("OTEL_EXPORTER_OTLP_TIMEOUT", NEVER)
            .env("OTEL_BSP_EXPORT_TIMEOUT", NEVER)
            .env("SHUTDOWN_TIMEOUT_MS", "500")
            .serve();
        assert_eq!(service.get("/echo").status, 200);
        let asked = Instant::now();
        assert_eq!(service.stop().code, Some(0), "{protocol}");
        let took = asked.elapsed();
        println!("{protocol} backend that hangs: stopped after {took:.1?} of 500 ms");
        // Far from the limit set, and farther from the 10 s that hold where none is.
        assert!(took < Duration::from_secs(5), "{took:?}");
        let lost = service.log().into_iter().find(|line| line.get("msg") == Some("spans dropped"));
        assert_eq!(&lost.unwrap()["spans"], "1", "{protocol}");
    }
}

#[test]
fn a_port_in_use_is_named_and_ends_it() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for variable in ["LISTEN_ADDR", "ADMIN_ADDR"] {
        let exit = service_a().env(variable, &address).run_to_exit();
        assert_eq!(exit.code, Some(1), "{exit:?}");
        let [message] = exit.stderr.as_slice() else { panic!("{exit:?}") };
        assert!(message.contains(&address), "{message}");
        assert_eq!(exit.stdout, [""; 0]);
    }
}
