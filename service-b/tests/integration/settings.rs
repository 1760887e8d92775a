//! Settings of service B.

use testkit::http;
use testkit::{FakeServer, ProcessBuilder, Reply};

use crate::service_b;

#[test]
fn help_lists_defaults() {
    let exit = service_b("").arg("--help").run_to_exit();
    assert_eq!(exit.code, Some(0));
    // The help is wrapped to the width of the terminal.
    let help = exit.stdout.join(" ").split_whitespace().collect::<Vec<_>>().join(" ");
    for text in [
        "--listen-addr",
        "[default: 127.0.0.1:8081]",
        "--service-a-url",
        "SERVICE_A_URL",
        "[default: http://127.0.0.1:8080]",
        "--service-a-timeout-ms",
        "SERVICE_A_TIMEOUT_MS",
        "[default: 1000]",
        "--admin-addr",
        "--drain-delay-ms",
        "--shutdown-timeout-ms",
        "--log-format",
        "--rust-log",
    ] {
        assert!(help.contains(text), "no {text} in {help}");
    }
    let exit = service_b("").arg("--version").run_to_exit();
    assert_eq!(exit.code, Some(0));
    assert!(exit.stdout[0].starts_with(concat!("service-b ", env!("CARGO_PKG_VERSION"))));
}

/// One message contains all invalid settings.
#[test]
fn all_invalid_settings_are_reported() {
    let exit = service_b("localhost:8080")
        .env("LISTEN_ADDR", "here")
        .env("SERVICE_A_TIMEOUT_MS", "0")
        .env("LOG_FORMAT", "xml")
        .run_to_exit();
    assert_eq!((exit.code, exit.stdout.len()), (Some(2), 0));
    let message = exit.stderr.join("\n");
    for variable in ["LISTEN_ADDR", "SERVICE_A_URL", "SERVICE_A_TIMEOUT_MS", "LOG_FORMAT"] {
        assert!(message.contains(variable), "no {variable} in {message}");
    }
    for url in ["https://127.0.0.1", "http://", "/", "unix:/x"] {
        let exit = service_b(url).run_to_exit();
        assert_eq!(exit.code, Some(2), "{url}");
        assert!(exit.stderr.join("\n").contains("SERVICE_A_URL"), "{url}: {exit:?}");
    }
}

#[test]
fn flags_match_variables() {
    let service_a = FakeServer::start(Reply::echo("hello"));
    let service = ProcessBuilder::new(env!("CARGO_BIN_EXE_service-b"))
        .env("SERVICE_A_URL", "http://127.0.0.1:1")
        .arg("--service-a-url")
        .arg(service_a.url() + "/")
        .arg("--admin-addr=127.0.0.1:0")
        .serve();
    assert_eq!(service.get("/call-echo?msg=hello").status, 200);
    assert_eq!(service.get("/metrics").status, 404);
    let page = http::get(service.admin_address(), "/metrics");
    assert!(page.text().contains(r#"service="service-b""#));
}

#[test]
fn env_proxy_is_ignored() {
    // Calls between the services must not depend on the proxy settings of a shell.
    let (service_a, proxy) =
        (FakeServer::start(Reply::echo("a")), FakeServer::start(Reply::echo("proxy")));
    let service =
        service_b(service_a.url()).env("HTTP_PROXY", proxy.url()).env("http_proxy", proxy.url());
    let response = service.serve().get("/call-echo?msg=hello");
    assert_eq!(response.text(), r#"{"service_a":{"echo":"a"},"service_b":"ok"}"#);
}
