//! Spans over TLS: `cargo test -p service-a --features tls`.

use testkit::TlsProxy;
use testkit::otlp::{OtlpCollector, Protocol};

use crate::service_a;

const PROTOCOLS: [Protocol; 2] = [Protocol::Grpc, Protocol::HttpProtobuf];
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const CERTIFICATE: &str = "OTEL_EXPORTER_OTLP_CERTIFICATE";
/// Where the system's certificates are, if not in the usual place.
const OF_THE_SYSTEM: &str = "SSL_CERT_FILE";

#[test]
fn trusted_certificate_exports() {
    for protocol in PROTOCOLS {
        let backend = OtlpCollector::start();
        let front = TlsProxy::start("127.0.0.1", backend.address(protocol));
        for variable in [CERTIFICATE, "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", OF_THE_SYSTEM] {
            let service = service_a()
                .envs(backend.variables(protocol))
                .env(ENDPOINT, front.url())
                .env(variable, front.certificate())
                .serve();
            let answer = service.get("/echo");
            let span = backend.wait_for_trace(answer.trace_id(), 1).remove(0);
            assert_eq!(span.name, "GET /echo", "{protocol:?} {variable}");
            assert_eq!(service.stop().code, Some(0));
        }
        assert_eq!(backend.spans().len(), 3);
    }
}

#[test]
fn grpc_tls_handshake_failure_is_logged() {
    spans_do_not_go_where_the_handshake_fails(Protocol::Grpc);
}

#[test]
fn http_tls_handshake_failure_is_logged() {
    spans_do_not_go_where_the_handshake_fails(Protocol::HttpProtobuf);
}

fn spans_do_not_go_where_the_handshake_fails(protocol: Protocol) {
    let backend = OtlpCollector::start();
    let address = backend.address(protocol);
    let front = TlsProxy::start("127.0.0.1", address);
    let misnamed = TlsProxy::start("elsewhere.test", address);
    let (its, other) = (front.certificate(), misnamed.certificate());
    let plain = format!("https://{address}");
    for (case, endpoint, in_the_file, of_the_system, details) in [
        ("not in the file", front.url(), Some(other), its, "UnknownIssuer"),
        ("not the system's", front.url(), None, other, "UnknownIssuer"),
        ("of another name", misnamed.url(), Some(other), other, "not valid for name"),
        ("no TLS", plain, Some(its), its, "InvalidContentType"),
    ] {
        let mut service = service_a()
            .envs(backend.variables(protocol))
            .env(ENDPOINT, endpoint)
            .env(OF_THE_SYSTEM, of_the_system);
        if let Some(file) = in_the_file {
            service = service.env(CERTIFICATE, file);
        }
        let service = service.serve();
        for lost in 1..=2 {
            assert_eq!(service.get("/echo").status, 200, "{case}");
            service.wait_for_metrics("a lost span", |page| {
                let failed = [("error_type", "failed")];
                page.sum("otel_sdk_exporter_span_exported_total", &failed) == f64::from(lost)
            });
        }
        assert_eq!(service.stop().code, Some(0), "{case}");
        let mut complaints = service.log();
        complaints.retain(|line| line.get("reason").is_some());
        let [complaint] = &complaints[..] else { panic!("{case}: {complaints:#?}") };
        assert_eq!(&complaint["reason"], "failed", "{case}");
        assert!(complaint["details"].contains(details), "{case}: {complaint:?}");
        println!("{protocol:?}, a certificate {case}: 2 spans lost, {}", &complaint["details"]);
    }
    assert_eq!(backend.spans(), []);
}

#[test]
fn empty_certificate_file_names_variable() {
    let no_certificate = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let broken = std::env::temp_dir().join(format!("broken-{}.pem", std::process::id()));
    let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    std::fs::write(&broken, pem).unwrap();
    for (file, problem) in [
        ("/no/such/file", "cannot be read"),
        (no_certificate, "expected"),
        (broken.to_str().unwrap(), "expected"),
    ] {
        let launch = |endpoint| service_a().env(ENDPOINT, endpoint).env(CERTIFICATE, file);
        let exit = launch("https://127.0.0.1:4317").run_to_exit();
        assert_eq!(exit.code, Some(2), "{exit:?}");
        let said = exit.stderr.join("\n");
        assert!(said.contains(CERTIFICATE) && said.contains(problem), "{said}");
        assert!(!said.contains(file), "{said}");
        // Nobody has a certificate to show there.
        assert_eq!(launch("http://127.0.0.1:4317").serve().get("/echo").status, 200);
    }
    std::fs::remove_file(broken).unwrap();
}

#[test]
fn missing_system_roots_disable_tls_only() {
    for protocol in PROTOCOLS {
        let backend = OtlpCollector::start();
        let launch = || {
            service_a()
                .envs(backend.variables(protocol))
                .env(OF_THE_SYSTEM, "/no/such/file")
                .env("SSL_CERT_DIR", "/no/such/directory")
        };
        backend.wait_for_trace(launch().serve().get("/echo").trace_id(), 1);
        let exit = launch().env(ENDPOINT, "https://127.0.0.1:4317").run_to_exit();
        assert_eq!(exit.code, Some(1), "{exit:?}");
        let [message] = &exit.stderr[..] else { panic!("{exit:?}") };
        assert!(message.starts_with("traces: ") && message.contains("cert"), "{message}");
    }
}
