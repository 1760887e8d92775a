//! `lab`: startup, output and shutdown.

use std::net::{SocketAddr, TcpListener};

use testkit::http::Connection;
use testkit::otlp::{OtlpCollector, Protocol};
use testkit::{LogLine, Process, ProcessBuilder, ReservedPort, wait_until_refused};

use crate::{lab, wait_until_exited};

/// Flag, variable and default of each address.
const ADDRESSES: [(&str, &str, &str); 5] = [
    ("--service-a-addr", "SERVICE_A_ADDR", "127.0.0.1:8080"),
    ("--service-b-addr", "SERVICE_B_ADDR", "127.0.0.1:8081"),
    ("--jaeger-ui-addr", "JAEGER_UI_ADDR", "127.0.0.1:16686"),
    ("--otlp-grpc-addr", "OTLP_GRPC_ADDR", "127.0.0.1:4317"),
    ("--otlp-http-addr", "OTLP_HTTP_ADDR", "127.0.0.1:4318"),
];

/// Returns a builder for a lab that listens on free ports.
fn lab_on_free_ports() -> ProcessBuilder {
    lab()
        .env_remove("LISTEN_ADDR")
        .envs(ADDRESSES.map(|(_, variable, _)| (variable, "127.0.0.1:0")))
}

/// Returns the address and process id of a service from the banner.
fn service_in_banner(lab: &Process, label: &str) -> (SocketAddr, String) {
    lab.wait_for_stdout_line("the last line of the banner", |line| line.contains("ends it all"));
    let line = lab.wait_for_stdout_line("a service in the banner", |line| {
        line.trim_start().starts_with(&format!("{label}  ")) && line.contains("pid")
    });
    let words: Vec<_> = line.split_whitespace().collect();
    let address = words[1].strip_prefix("http://").unwrap().parse().unwrap();
    (address, words[3].to_owned())
}

/// Returns the address and target of the curl command in the banner.
fn curl_url(lab: &Process) -> (SocketAddr, String) {
    let line = lab.wait_for_stdout_line("the curl command", |line| line.contains("curl \"http://"));
    let (_, url) = line.split_once("http://").unwrap();
    let (address, target) = url.trim_end_matches('"').split_once('/').unwrap();
    (address.parse().unwrap(), format!("/{target}"))
}

/// Waits for a forwarded log line of a service.
fn wait_for_forwarded_line(lab: &Process, label: &str, trace_id: &str) -> LogLine {
    let line = lab.wait_for_stdout_line(&format!("a log line of {label}"), |line| {
        line.starts_with(&format!("{label} ")) && line.contains(trace_id)
    });
    let line = line[label.len() + 1..].split("  -> ").next().unwrap();
    LogLine::parse(line)
}

/// The curl command in the banner succeeds, and both services log the request.
#[test]
fn banner_curl_command_works() {
    let lab = lab_on_free_ports().start();
    let (address, target) = curl_url(&lab);
    assert_eq!(address, service_in_banner(&lab, "B").0);
    let lines = lab.stdout();
    let banner = lines.split(|line| line.starts_with("  Two services")).next_back().unwrap();
    for line in banner.iter().take_while(|line| !line.contains("ends it all")) {
        assert!(line.chars().count() <= 80, "{line}");
    }
    let response = testkit::http::get(address, &target);
    assert_eq!(response.text(), r#"{"service_a":{"echo":"hello"},"service_b":"ok"}"#);
    assert_eq!(&wait_for_forwarded_line(&lab, "B", response.trace_id())["endpoint"], "/call-echo");
    assert_eq!(&wait_for_forwarded_line(&lab, "A", response.trace_id())["endpoint"], "/echo");
    // The lab enables faults.
    assert_eq!(testkit::http::get(service_in_banner(&lab, "A").0, "/faults").status, 200);
}

#[test]
fn overridden_variables_are_named() {
    let unused = ReservedPort::bind();
    let lab = lab_on_free_ports()
        .env("SERVICE_A_URL", unused.url())
        .env("LISTEN_ADDR", unused.release().to_string())
        .env("ADMIN_ADDR", "")
        .start();
    let (address, target) = curl_url(&lab);
    assert_eq!(testkit::http::get(address, &target).status, 200);
    let line = "* ignoring LISTEN_ADDR, SERVICE_A_URL, which the lab sets for A and B";
    lab.wait_for_stdout_line("the ignored variables", |printed| printed == line);
}

/// The protocol of the shell does not reach the services, because the lab selects that of its Jaeger.
#[test]
fn embedded_jaeger_overrides_protocol() {
    let lab = lab_on_free_ports()
        .env("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf")
        .env("OTEL_BSP_SCHEDULE_DELAY", "100")
        .start();
    let (address, target) = curl_url(&lab);
    let response = testkit::http::get(address, &target);
    let line = lab.wait_for_stdout_line("Jaeger", |line| line.starts_with("  traces "));
    let (_, ui) = line.split_once("http://").unwrap();
    let trace = format!("/api/traces/{}", response.trace_id());
    testkit::wait_until("the trace", || {
        testkit::http::get(ui.parse().unwrap(), &trace).status == 200
    });
}

/// Returns the status of a request with a host.
fn status_with_host(address: SocketAddr, target: &str, host: &str) -> u16 {
    let mut connection = Connection::open(address);
    connection.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes());
    connection.response().unwrap().status
}

/// A page whose name resolves to a loopback address reads nothing, and sees no fault switch.
#[test]
fn foreign_host_is_rejected() {
    let lab = lab_on_free_ports().start();
    let [a, b] = ["A", "B"].map(|label| service_in_banner(&lab, label).0);
    for (address, target) in
        [(a, "/echo"), (a, "/faults"), (a, "/metrics"), (b, "/call-echo?msg=a"), (b, "/readyz")]
    {
        for (host, status) in [("rebound.test", 403), ("localhost", 200), ("[::1]:8080", 200)] {
            assert_eq!(status_with_host(address, target, host), status, "{host} {target}");
        }
    }
    let lab = lab_on_free_ports().env("ALLOWED_HOSTS", "lab.example").start();
    let (a, _) = service_in_banner(&lab, "A");
    assert_eq!(status_with_host(a, "/echo", "lab.example:8080"), 200);
    // The user exposes a service that listens on all addresses.
    let lab = lab_on_free_ports().args(["--service-a-addr", "0.0.0.0:0"]).start();
    let (a, _) = service_in_banner(&lab, "A");
    let a = SocketAddr::from(([127, 0, 0, 1], a.port()));
    assert_eq!(status_with_host(a, "/echo", "lab.example:8080"), 200);
}

/// Clients that occupy every file of the lab end neither the lab nor its Jaeger.
#[cfg(target_os = "linux")]
#[test]
fn file_limit_does_not_end_lab() {
    let lab = ProcessBuilder::new("sh")
        .args(["-c", r#"ulimit -n 128 && exec "$0""#, env!("CARGO_BIN_EXE_lab")])
        .envs(ADDRESSES.map(|(_, variable, _)| (variable, "127.0.0.1:0")))
        .start();
    let (b, target) = curl_url(&lab);
    let line = lab.wait_for_stdout_line("the URL of Jaeger", |line| line.contains("traces  "));
    let jaeger = line.split("http://").nth(1).unwrap().parse().unwrap();
    let open = |_| {
        let mut connection = Connection::open(jaeger);
        connection.send(b"GET / HTTP/1.1\r\nHo");
        connection
    };
    let connections: Vec<_> = (0..200).map(open).collect();
    let files = format!("/proc/{}/fd", lab.id());
    testkit::wait_until("no free file", || std::fs::read_dir(&files).unwrap().count() >= 128);
    assert_eq!(testkit::http::get(b, &target).status, 200);
    drop(connections);
    assert_eq!(testkit::http::get(jaeger, "/api/services").status, 200);
    assert_eq!(lab.stop().code, Some(0));
}

#[test]
fn ipv6_addresses_work() {
    if TcpListener::bind("[::1]:0").is_err() {
        return println!("skipped: this machine has no IPv6");
    }
    let lab = lab_on_free_ports().envs(ADDRESSES.map(|(_, variable, _)| (variable, "[::1]:0")));
    let lab = lab.start();
    let (address, target) = curl_url(&lab);
    let response = testkit::http::get(address, &target);
    assert_eq!(response.text(), r#"{"service_a":{"echo":"hello"},"service_b":"ok"}"#);
}

/// SIGTERM and SIGINT stop service B, then service A, and leave no process behind.
#[cfg(unix)]
#[test]
fn signal_stops_services_in_order() {
    for terminate in [true, false] {
        let lab = lab_on_free_ports().start();
        let ((a, a_pid), (b, b_pid)) = (service_in_banner(&lab, "A"), service_in_banner(&lab, "B"));
        if terminate {
            lab.terminate();
        } else {
            lab.interrupt();
        }
        let exit = lab.wait();
        assert_eq!((exit.code, exit.stderr), (Some(0), vec![]));
        wait_until_exited(a, &a_pid);
        wait_until_exited(b, &b_pid);
        let stopped = |label: &str| {
            let matches =
                |line: &String| line.starts_with(label) && line.contains("msg=\"stopped\"");
            exit.stdout.iter().position(matches).unwrap()
        };
        let signal = if terminate { "SIGTERM" } else { "SIGINT" };
        let status = format!("* {signal}, stopping B, then A; a second signal ends it at once");
        assert!(exit.stdout.contains(&status), "{:#?}", exit.stdout);
        assert!(stopped("B ") < stopped("A "), "{:#?}", exit.stdout);
    }
}

#[test]
fn killed_lab_leaves_no_children() {
    let lab = lab_on_free_ports().start();
    let ((a, a_pid), (b, b_pid)) = (service_in_banner(&lab, "A"), service_in_banner(&lab, "B"));
    lab.kill();
    lab.wait();
    wait_until_exited(a, &a_pid);
    wait_until_exited(b, &b_pid);
}

/// The lab and service B keep running when service A exits.
#[cfg(unix)]
#[test]
fn killed_service_a_degrades_b() {
    let lab = lab_on_free_ports().start();
    let ((_, a_pid), (b, _)) = (service_in_banner(&lab, "A"), service_in_banner(&lab, "B"));
    let kill = ProcessBuilder::new("kill").arg(&a_pid).run_to_exit();
    assert_eq!(kill.code, Some(0), "{kill:?}");
    lab.wait_for_stdout_line("a status line about service A", |line| {
        line.starts_with("* A is down")
    });
    let response = testkit::http::get(b, "/call-echo?msg=hello");
    assert_eq!((response.status, &response.json()["error"]), (503, &"refused".into()));
    assert_eq!(&wait_for_forwarded_line(&lab, "B", response.trace_id())["error"], "refused");
    assert_eq!(lab.stop().code, Some(0));
}

#[test]
fn configured_endpoint_receives_spans() {
    let collector = OtlpCollector::start();
    let lab = lab_on_free_ports().envs(collector.variables(Protocol::HttpProtobuf)).start();
    let (address, target) = curl_url(&lab);
    let response = testkit::http::get(address, &target);
    let spans = collector.wait_for_trace(response.trace_id(), 3);
    assert_eq!(spans[2].service(), "service-a");
}

/// The error contains the address, its flag and the process that listens there, and the services that have started are stopped.
#[test]
fn port_in_use_stops_everything() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let used_address = listener.local_addr().unwrap().to_string();
    for (flag, variable, _) in ADDRESSES {
        let a = ReservedPort::bind().release();
        let mut lab = lab_on_free_ports();
        if variable != "SERVICE_A_ADDR" {
            lab = lab.env("SERVICE_A_ADDR", a.to_string());
        }
        let exit = lab.env(variable, &used_address).run_to_exit();
        assert_eq!(exit.code, Some(1), "{variable}: {exit:?}");
        let error = exit.stderr.join("\n");
        assert!(error.contains(&used_address) && error.contains(flag), "{variable}: {error}");
        if cfg!(target_os = "linux") {
            let pid = format!(", pid {}, listens there", std::process::id());
            assert!(error.contains(&pid), "{error}");
        }
        wait_until_refused(a);
    }
}

#[test]
fn help_and_invalid_ports() {
    let help = lab().arg("--help").run_to_exit();
    assert_eq!(help.code, Some(0));
    let invalid = lab().envs(ADDRESSES.map(|(_, variable, _)| (variable, "nowhere"))).run_to_exit();
    assert_eq!((invalid.code, invalid.stdout.len()), (Some(2), 0));
    for (flag, variable, default) in ADDRESSES {
        for text in [flag, variable, default] {
            assert!(help.stdout.join("\n").contains(text), "no {text} in {help:#?}");
        }
        assert!(invalid.stderr.join("\n").contains(variable), "no {variable} in {invalid:#?}");
    }
    let version = lab().arg("--version").run_to_exit();
    assert_eq!((version.code, version.stdout.len()), (Some(0), 1));
}
