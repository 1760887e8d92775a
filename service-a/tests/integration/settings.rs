//! Settings from flags and environment variables.

use testkit::http::{Connection, Request};
use testkit::{FakeServer, Reply};

use crate::service_a;

/// Flag, variable, and default as shown by `--help`.
const SETTINGS: [(&str, &str, &str); 7] = [
    ("--listen-addr", "LISTEN_ADDR", "[default: 127.0.0.1:8080]"),
    ("--admin-addr", "ADMIN_ADDR", ""),
    ("--faults-enabled", "FAULTS_ENABLED", "[default: false]"),
    ("--shutdown-timeout-ms", "SHUTDOWN_TIMEOUT_MS", "[default: 10000]"),
    ("--drain-delay-ms", "DRAIN_DELAY_MS", "[default: 0]"),
    ("--log-format", "LOG_FORMAT", "[default: logfmt]"),
    ("--rust-log", "RUST_LOG", "[default: info]"),
];

#[test]
fn help_lists_defaults() {
    let exit = service_a().arg("--help").run_to_exit();
    assert_eq!((exit.code, exit.stderr.len()), (Some(0), 0));
    // The help is wrapped to the width of the terminal.
    let help = exit.stdout.join(" ").split_whitespace().collect::<Vec<_>>().join(" ");
    for (flag, variable, default) in SETTINGS {
        for text in [flag, variable, default] {
            assert!(help.contains(text), "no {text} in {help}");
        }
    }
    assert!(help.contains("OTEL_EXPORTER_OTLP_ENDPOINT"), "{help}");
}

/// A request with another host is measured and logged like others.
#[test]
fn unlisted_host_is_rejected() {
    let service = service_a().env("ALLOWED_HOSTS", "a.example,192.0.2.1").serve();
    let send = |host: &str, target: &str| {
        let mut connection = Connection::open(service.address());
        connection.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes());
        connection.response().unwrap()
    };
    for host in ["A.example:8080", "192.0.2.1", "localhost"] {
        assert_eq!(send(host, "/echo").status, 200, "{host}");
    }
    assert_eq!(send("rebound.test", "/metrics").status, 403);
    let rejected = send("rebound.test", "/echo");
    assert_eq!(rejected.status, 403);
    let line = service.wait_for_access_line(rejected.trace_id());
    assert_eq!((&line["endpoint"], &line["http_status"]), ("/echo", "403"));
    let labels = [("http_route", "/echo"), ("http_response_status_code", "403")];
    let count = "http_server_request_duration_seconds_count";
    assert_eq!(service.metrics().value(count, &labels), Some(1.0));
}

#[test]
fn version_is_one_line() {
    let exit = service_a().arg("--version").run_to_exit();
    assert_eq!(exit.code, Some(0));
    let [line] = exit.stdout.as_slice() else { panic!("{exit:?}") };
    assert!(line.starts_with(&format!("service-a {}", env!("CARGO_PKG_VERSION"))), "{line}");
}

/// One message contains all invalid settings and no value.
#[test]
fn all_invalid_settings_are_reported() {
    let exit = service_a()
        .env("LISTEN_ADDR", "localhost")
        .env("ADMIN_ADDR", "127.0.0.1")
        .env("FAULTS_ENABLED", "perhaps")
        .env("SHUTDOWN_TIMEOUT_MS", "10s")
        .env("DRAIN_DELAY_MS", "-1")
        .env("LOG_FORMAT", "xml")
        .env("RUST_LOG", "==")
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317")
        .run_to_exit();
    assert_eq!((exit.code, exit.stdout.len()), (Some(2), 0), "{exit:?}");
    let message = exit.stderr.join("\n");
    for (_, variable, _) in SETTINGS {
        assert!(message.contains(variable), "no {variable} in {message}");
    }
    assert!(message.contains("OTEL_EXPORTER_OTLP_ENDPOINT"), "{message}");
    assert!(!message.contains("perhaps"), "value in the message: {message}");
}

/// Empty directives of the log filter do not change it.
#[test]
fn empty_log_directive_is_ignored() {
    for filter in ["info,", ",info", "off, ,observability = info", ","] {
        service_a().env("RUST_LOG", filter).serve();
    }
}

/// A misspelled level does not disable the log.
#[test]
fn invalid_log_filter_names_variable() {
    for filter in ["inof", "info,access=wran", "info=access", "info,access=", "info,a=b=info"] {
        let exit = service_a().env("RUST_LOG", filter).run_to_exit();
        assert_eq!((exit.code, exit.stdout.len()), (Some(2), 0), "{filter}: {exit:?}");
        let message = exit.stderr.join("\n");
        assert!(message.contains("RUST_LOG (--rust-log): expected"), "{message}");
        assert!(!message.contains(filter), "value in the message: {message}");
    }
}

#[test]
fn unknown_flag_is_rejected() {
    let exit = service_a().arg("--listen").arg("127.0.0.1:0").run_to_exit();
    assert_eq!((exit.code, exit.stdout.len()), (Some(2), 0));
    assert!(exit.stderr.join("\n").contains("--listen"), "{exit:?}");
}

#[test]
fn flag_overrides_env() {
    let service = service_a()
        .env("LISTEN_ADDR", "127.0.0.1:1")
        .env("RUST_LOG", "off")
        .arg("--listen-addr=127.0.0.1:0")
        .arg("--rust-log")
        .arg("info")
        .arg("--faults-enabled")
        .serve();
    assert_eq!(service.get("/faults").status, 200);
}

#[test]
fn empty_env_is_unset() {
    let service = service_a().env("DRAIN_DELAY_MS", "").serve();
    assert_eq!(service.get("/health").status, 200);
}

#[test]
fn admin_addr_moves_admin_routes() {
    let service =
        service_a().env("ADMIN_ADDR", "127.0.0.1:0").env("FAULTS_ENABLED", "true").serve();
    let admin = service.admin_address();
    assert_ne!(admin, service.address());
    for target in ["/metrics", "/health", "/livez", "/readyz", "/faults"] {
        assert_eq!(testkit::http::get(admin, target).status, 200, "{target}");
        assert_eq!(service.get(target).status, 404, "{target}");
    }
    assert_eq!(testkit::http::get(admin, "/echo").status, 404);
    assert_eq!(service.get("/echo?msg=hello").text(), r#"{"echo":"hello"}"#);

    let response = Request::new("PUT", "/faults")
        .header("Content-Type", "application/json")
        .body(r#"{"status":418}"#)
        .send(admin);
    assert_eq!(response.status, 200);
    assert_eq!(service.get("/echo").status, 418);
}

#[test]
fn health_check_exit_code() {
    let service = service_a().serve();
    let address = service.address().to_string();
    let check = || service_a().env("LISTEN_ADDR", &address).arg("--health-check").run_to_exit();
    assert_eq!(check().code, Some(0));
    service.kill();
    service.wait();
    let exit = check();
    assert_eq!(exit.code, Some(1));
    assert!(exit.stderr[0].contains(&address), "{exit:?}");
}

#[test]
fn ineffective_otel_variables_are_warned_of() {
    let service = service_a()
        .env("OTEL_EXPORTER_OTLP_ENDPONT", "http://key:secret@127.0.0.1:4317")
        .env("OTEL_METRICS_EXPORTER", "otlp")
        .serve();
    service.wait_for_message(
        "OTEL_EXPORTER_OTLP_ENDPONT: unknown variable; did you mean OTEL_EXPORTER_OTLP_ENDPOINT?",
    );
    service.wait_for_message(
        "OTEL_METRICS_EXPORTER: not supported; metrics are scraped from /metrics",
    );
    let output = service.stop();
    assert!(!output.stdout.join("").contains("secret"), "{output:?}");
}

/// The probe ends although each byte of the response arrives in time.
#[test]
fn slow_peer_fails_health_check() {
    let body = Reply::start_of(1 << 20, "");
    let stalled = FakeServer::start(Reply::Stall(body.clone()));
    let trickling = FakeServer::start(Reply::SlowBody(body));
    for peer in [&trickling, &stalled] {
        let check = service_a().env("LISTEN_ADDR", peer.address().to_string());
        let exit = check.arg("--health-check").run_to_exit();
        assert_eq!(exit.code, Some(1));
        assert!(exit.stderr[0].contains("no complete response within 2s"), "{exit:?}");
    }
}
