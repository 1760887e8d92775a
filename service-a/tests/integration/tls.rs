//! Span export over TLS. Run with `cargo test -p service-a --features tls`.

use testkit::TlsProxy;
use testkit::otlp::{OtlpCollector, Protocol};

use crate::service_a;

const PROTOCOLS: [Protocol; 2] = [Protocol::Grpc, Protocol::HttpProtobuf];
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const CERTIFICATE: &str = "OTEL_EXPORTER_OTLP_CERTIFICATE";
/// File with the system's root certificates, if not in the default location.
const SYSTEM_ROOTS: &str = "SSL_CERT_FILE";

#[test]
fn trusted_certificate_exports() {
    for protocol in PROTOCOLS {
        let collector = OtlpCollector::start();
        let proxy = TlsProxy::start("127.0.0.1", collector.address());
        for variable in [CERTIFICATE, "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", SYSTEM_ROOTS] {
            let service = service_a()
                .envs(collector.variables(protocol))
                .env(ENDPOINT, proxy.url())
                .env(variable, &proxy.certificate.certificate_file)
                .serve();
            let response = service.get("/echo");
            let span = collector.wait_for_trace(response.trace_id(), 1).remove(0);
            assert_eq!(span.name, "GET /echo", "{protocol:?} {variable}");
            assert_eq!(service.stop().code, Some(0));
        }
        assert_eq!(collector.spans().len(), 3);
    }
}

#[test]
fn grpc_tls_handshake_failure_is_logged() {
    assert_handshake_failure_is_logged(Protocol::Grpc);
}

#[test]
fn http_tls_handshake_failure_is_logged() {
    assert_handshake_failure_is_logged(Protocol::HttpProtobuf);
}

fn assert_handshake_failure_is_logged(protocol: Protocol) {
    let collector = OtlpCollector::start();
    let address = collector.address();
    let proxy = TlsProxy::start("127.0.0.1", address);
    let misnamed = TlsProxy::start("elsewhere.test", address);
    let (trusted, other) =
        (&proxy.certificate.certificate_file, &misnamed.certificate.certificate_file);
    let plain_text = format!("https://{address}");
    for (case, endpoint, configured, system_roots, details) in [
        ("not in the configured file", proxy.url(), Some(other), trusted, "UnknownIssuer"),
        ("not in the system roots", proxy.url(), None, other, "UnknownIssuer"),
        ("for another name", misnamed.url(), Some(other), other, "not valid for name"),
        ("missing", plain_text, Some(trusted), trusted, "InvalidContentType"),
    ] {
        let mut service = service_a()
            .envs(collector.variables(protocol))
            .env(ENDPOINT, endpoint)
            .env(SYSTEM_ROOTS, system_roots);
        if let Some(file) = configured {
            service = service.env(CERTIFICATE, file);
        }
        let service = service.serve();
        for _ in 1..=2 {
            assert_eq!(service.get("/echo").status, 200, "{case}");
            service.wait_for_message("span export failed, retrying");
        }
        assert_eq!(service.stop().code, Some(0), "{case}");
        let mut warnings = service.log();
        warnings.retain(|line| line.get("msg") == Some("span export failed, retrying"));
        let [warning] = &warnings[..] else { panic!("{case}: {warnings:#?}") };
        assert!(warning["details"].contains(details), "{case}: {warning:?}");
        println!("{protocol:?}, certificate {case}: 2 spans dropped, {}", &warning["details"]);
    }
    assert_eq!(collector.spans(), []);
}

/// An unreadable or invalid file is an error only if the endpoint uses TLS. The message names the variable
/// and does not contain its value.
#[test]
fn empty_certificate_file_names_variable() {
    let no_certificate = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let invalid = std::env::temp_dir().join(format!("invalid-{}.pem", std::process::id()));
    let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    std::fs::write(&invalid, pem).unwrap();
    for (file, error) in [
        ("/no/such/file", "cannot be read"),
        (no_certificate, "expected"),
        (invalid.to_str().unwrap(), "expected"),
    ] {
        let service = |endpoint| service_a().env(ENDPOINT, endpoint).env(CERTIFICATE, file);
        let exit = service("https://127.0.0.1:4317").run_to_exit();
        assert_eq!(exit.code, Some(2), "{exit:?}");
        let message = exit.stderr.join("\n");
        assert!(message.contains(CERTIFICATE) && message.contains(error), "{message}");
        assert!(!message.contains(file), "{message}");
        assert_eq!(service("http://127.0.0.1:4317").serve().get("/echo").status, 200);
    }
    std::fs::remove_file(invalid).unwrap();
}

/// Without system roots a plain-text endpoint works and a TLS endpoint is an error at startup.
#[test]
fn missing_system_roots_disable_tls_only() {
    for protocol in PROTOCOLS {
        let collector = OtlpCollector::start();
        let service = || {
            service_a()
                .envs(collector.variables(protocol))
                .env(SYSTEM_ROOTS, "/no/such/file")
                .env("SSL_CERT_DIR", "/no/such/directory")
        };
        collector.wait_for_trace(service().serve().get("/echo").trace_id(), 1);
        let exit = service().env(ENDPOINT, "https://127.0.0.1:4317").run_to_exit();
        assert_eq!(exit.code, Some(1), "{exit:?}");
        let [message] = &exit.stderr[..] else { panic!("{exit:?}") };
        assert!(
            message.starts_with("cannot start telemetry: ") && message.contains("cert"),
            "{message}"
        );
    }
}
