//! Startup and graceful shutdown.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use testkit::http::{Connection, Request};
use testkit::otlp::{OtlpCollector, Protocol};
use testkit::{FakeServer, LogLine, Process, ProcessBuilder, Reply};

use crate::{service_a, service_a_with_faults, start_echo};

/// Setting for timeouts that must not elapse; longer than any wait of a test.
const ONE_HOUR_MS: &str = "3600000";

#[test]
fn first_line_contains_address() {
    let service = service_a().serve();
    let address = service.address();
    assert!(address.ip().is_loopback() && address.port() != 0, "{address}");
    assert_eq!(service.get("/health").status, 200);
    assert_eq!(service.log()[0].keys(), ["ts", "level", "service", "target", "msg", "address"]);
}

#[test]
fn shutdown_completes_in_flight_request() {
    let service = service_a_with_faults(r#"{"delay_ms":700}"#);
    let mut connection = start_echo(&service);
    service.terminate();
    let response = connection.response().unwrap();
    assert_eq!((response.status, response.text()), (200, r#"{"echo":"hello"}"#));
    let exit = service.wait();
    assert_eq!((exit.code, exit.stderr.len()), (Some(0), 0), "{exit:?}");
    let log = service.log();
    let position = |matches: &dyn Fn(&LogLine) -> bool| log.iter().position(matches).unwrap();
    let stopping = position(&|line| line.get("msg") == Some("stopping"));
    let access = position(&|line| line.get("endpoint") == Some("/echo"));
    let stopped = position(&|line| line.get("msg") == Some("stopped"));
    assert!(stopping < access && access < stopped, "{log:#?}");
    assert_eq!(&log[stopping]["signal"], "SIGTERM");
    assert_eq!(stopped, log.len() - 1);
}

#[test]
fn sigint_shuts_down() {
    let service = service_a().serve();
    service.interrupt();
    assert_eq!(service.wait().code, Some(0));
    assert!(service.log().iter().any(|line| line.get("signal") == Some("SIGINT")));
}

#[test]
fn sighup_shuts_down() {
    let service = service_a().serve();
    service.hang_up();
    assert_eq!(service.wait().code, Some(0));
    assert!(service.log().iter().any(|line| line.get("signal") == Some("SIGHUP")));
}

/// A service that `nohup` starts survives the end of its terminal.
#[cfg(target_os = "linux")]
#[test]
fn nohup_ignores_sighup() {
    let service = ProcessBuilder::new("nohup").arg(env!("CARGO_BIN_EXE_service-a")).serve();
    service.hang_up();
    assert_eq!(service.get("/health").status, 200);
    assert_eq!(service.stop().code, Some(0));
    assert_eq!(&service.wait_for_message("stopping")["signal"], "SIGTERM");
}

/// The kernel discards signals to the first process of a PID namespace that have no handler.
#[cfg(target_os = "linux")]
#[test]
#[ignore = "needs root or unprivileged user namespaces"]
fn sigterm_stops_first_process() {
    let service = ProcessBuilder::new("unshare")
        .args(["--map-root-user", "--pid", "--fork", "--kill-child"])
        .arg(env!("CARGO_BIN_EXE_service-a"))
        .serve();
    let id = service.id();
    let child = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
    let kill = ProcessBuilder::new("kill").args(["-TERM", child.trim()]).run_to_exit();
    assert_eq!(kill.code, Some(0), "{kill:?}");
    assert_eq!(service.wait().code, Some(0));
    assert_eq!(&service.wait_for_message("stopping")["signal"], "SIGTERM");
}

#[test]
fn shutdown_flushes_spans() {
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let collector = OtlpCollector::start();
        let service = service_a()
            .envs(collector.variables(protocol))
            .env("OTEL_BSP_SCHEDULE_DELAY", ONE_HOUR_MS)
            .serve();
        let trace_ids: Vec<_> =
            (0..10).map(|_| service.get("/echo").trace_id().to_owned()).collect();
        assert_eq!(collector.spans().len(), 0);
        assert_eq!(service.stop().code, Some(0));
        for trace_id in trace_ids {
            collector.wait_for_trace(&trace_id, 1);
        }
    }
}

/// During the drain delay `/readyz` returns 503 and all other routes are served. A second signal ends the
/// process.
#[test]
fn drain_delay_serves_and_reports_unready() {
    let service = service_a()
        .env("DRAIN_DELAY_MS", ONE_HOUR_MS)
        .env("SHUTDOWN_TIMEOUT_MS", ONE_HOUR_MS)
        .serve();
    assert_eq!(service.get("/readyz").status, 200);
    service.terminate();
    service.wait_for_message("stopping");
    let ready = service.get("/readyz");
    assert_eq!((ready.status, ready.text()), (503, r#"{"status":"draining"}"#));
    assert_eq!(service.get("/livez").status, 200);
    assert_eq!(service.get("/health").status, 200);
    assert_eq!(service.get("/echo?msg=hello").text(), r#"{"echo":"hello"}"#);

    service.terminate();
    let exit = service.wait();
    assert_eq!(exit.code, Some(1));
    assert!(exit.stderr[0].contains("second signal"), "{exit:?}");
}

#[test]
fn drain_delay_ends_without_second_signal() {
    let service = service_a().env("DRAIN_DELAY_MS", "100").serve();
    assert_eq!(service.stop().code, Some(0));
}

#[test]
fn shutdown_timeout_bounds_drain_delay() {
    let service =
        service_a().env("DRAIN_DELAY_MS", ONE_HOUR_MS).env("SHUTDOWN_TIMEOUT_MS", "200").serve();
    assert_eq!(service.stop().code, Some(0));
}

#[test]
fn second_signal_exits_immediately() {
    let service =
        service_a().env("FAULTS_ENABLED", "true").env("SHUTDOWN_TIMEOUT_MS", ONE_HOUR_MS).serve();
    service.set_faults(r#"{"hang":true}"#);
    let _connection = start_echo(&service);
    service.terminate();
    service.wait_for_message("stopping");
    let second_signal = Instant::now();
    service.interrupt();
    assert_eq!(service.wait().code, Some(1));
    println!("exit {:.1?} after the second signal", second_signal.elapsed());
}

/// The aborted request is logged as `canceled` and its span is exported.
#[test]
fn shutdown_timeout_aborts_request() {
    let collector = OtlpCollector::start();
    let service = service_a()
        .env("FAULTS_ENABLED", "true")
        .env("SHUTDOWN_TIMEOUT_MS", "2000")
        .envs(collector.variables(Protocol::Grpc))
        .serve();
    service.set_faults(r#"{"hang":true}"#);
    let mut connection = start_echo(&service);
    let start = Instant::now();
    assert_eq!(service.stop().code, Some(0));
    let elapsed = start.elapsed();
    println!("hanging request: exit after {elapsed:.1?}, shutdown timeout 2 s");
    // Allows for a busy machine and is still below the default timeout of 10 s.
    assert!(elapsed < Duration::from_secs(6), "{elapsed:?}");
    assert!(connection.response().is_err());
    let log = service.log();
    let access = log.iter().find(|line| line.get("endpoint").is_some()).unwrap();
    assert_eq!(&access["error"], "canceled");
    collector.wait_for_trace(&access["trace_id"], 1);
}

/// Unused, half-used and kept-alive connections do not delay the shutdown.
#[test]
fn idle_connections_do_not_block_shutdown() {
    let service = service_a().env("SHUTDOWN_TIMEOUT_MS", "6000").serve();
    let address = service.address();
    let unused = Connection::open(address);
    let mut partial = Connection::open(address);
    partial.send(b"GET /echo HTTP/1.1\r\nHo");
    // Connections are accepted in order, so this response proves that the first two were accepted.
    let mut used = Request::new("GET", "/echo").start(address);
    used.response().unwrap();
    let exit = service.stop();
    assert_eq!(exit.code, Some(0));
    assert!(!exit.stdout.iter().any(|line| line.contains("aborting requests")), "{exit:?}");
    drop((unused, partial, used));
}

/// Starts a service that may have 256 open files, and opens connections that send a part of the headers
/// until it has no file left.
#[cfg(unix)]
fn exhaust_files(idle_timeout_ms: &str) -> (Process, Vec<Connection>) {
    let service = ProcessBuilder::new("sh")
        .args(["-c", r#"ulimit -n 256 && exec "$0""#, env!("CARGO_BIN_EXE_service-a")])
        .env("IDLE_TIMEOUT_MS", idle_timeout_ms)
        .env("SHUTDOWN_TIMEOUT_MS", ONE_HOUR_MS)
        .serve();
    let open = |_| {
        let mut connection = Connection::open(service.address());
        connection.send(b"GET /echo HTTP/1.1\r\nHo");
        connection
    };
    let connections = (0..300).map(open).collect();
    service.wait_for_message("cannot accept connections");
    (service, connections)
}

#[cfg(unix)]
#[test]
fn file_limit_does_not_block_shutdown() {
    let (service, _connections) = exhaust_files(ONE_HOUR_MS);
    let exit = service.stop();
    assert_eq!(exit.code, Some(0));
    assert!(!exit.stdout.iter().any(|line| line.contains("aborting requests")), "{exit:?}");
}

/// Clients that send no complete headers occupy all files for no longer than the idle timeout.
#[cfg(unix)]
#[test]
fn file_limit_blocks_until_idle_timeout() {
    let (service, _connections) = exhaust_files("5000");
    assert_eq!(service.get("/health").status, 200);
}

#[test]
fn hung_backend_does_not_block_shutdown() {
    let backend = FakeServer::start(Reply::Stall(Vec::new()));
    assert_backend_does_not_block_shutdown(&backend.url());
}

#[cfg(target_os = "linux")]
#[test]
fn blackholed_backend_does_not_block_shutdown() {
    let (backend, _sockets) = testkit::listener_with_full_backlog();
    assert_backend_does_not_block_shutdown(&format!("http://{backend}"));
}

fn assert_backend_does_not_block_shutdown(endpoint: &str) {
    for protocol in ["grpc", "http/protobuf"] {
        let service = service_a()
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
            .env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
            .env("OTEL_EXPORTER_OTLP_TIMEOUT", ONE_HOUR_MS)
            .env("OTEL_BSP_EXPORT_TIMEOUT", ONE_HOUR_MS)
            .env("SHUTDOWN_TIMEOUT_MS", "500")
            .serve();
        assert_eq!(service.get("/echo").status, 200);
        let start = Instant::now();
        assert_eq!(service.stop().code, Some(0), "{protocol}");
        let elapsed = start.elapsed();
        println!("hung {protocol} backend: exit after {elapsed:.1?}, shutdown timeout 500 ms");
        // Allows for a busy machine and is still below the default timeout of 10 s.
        assert!(elapsed < Duration::from_secs(5), "{elapsed:?}");
        assert_eq!(&service.wait_for_message("spans dropped")["spans"], "1", "{protocol}");
    }
}

#[test]
fn port_in_use_exits_with_address() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    for variable in ["LISTEN_ADDR", "ADMIN_ADDR"] {
        let exit = service_a().env(variable, &address).run_to_exit();
        assert_eq!(exit.code, Some(1), "{exit:?}");
        let [message] = exit.stderr.as_slice() else { panic!("{exit:?}") };
        assert!(message.contains(&address), "{message}");
        assert_eq!(exit.stdout, [""; 0]);
    }
}
