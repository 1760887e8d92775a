//! What strangers learn, and what nobody does.

use testkit::http::{Connection, Request};
use testkit::otlp::{Behavior, OtlpCollector, Protocol};
use testkit::{FakeServer, Process, Reply, ReservedPort};

use crate::support::{service_a, service_b};

#[test]
fn answers_to_strangers_are_plain() {
    let service_a = service_a().env("FAULTS_ENABLED", "true").serve();
    let service_b = service_b(format!("http://{}", service_a.address())).serve();
    let mut answers = 1;
    for service in [&service_a, &service_b] {
        for (method, target, status) in [
            ("GET", "/%3Cscript%3E", 404),
            ("GET", "/marker", 404),
            ("POST", "/echo", 405),
            ("POST", "/call-echo", 405),
            ("POST", "/health", 405),
            ("DELETE", "/metrics", 405),
            ("GET", "/echo?msg=%ffmarker", 400),
            ("GET", "/call-echo?msg=%ffmarker", 400),
            ("GET", "/call-echo", 400),
        ] {
            let answer = Request::new(method, target).send(service.address());
            // Each route is on one of the two only.
            assert!(answer.status == status || answer.status == 404, "{answer:?}");
            assert!(!answer.text().contains("marker"), "{answer:?}");
            if answer.status != 400 {
                assert_eq!(answer.text(), "", "{method} {target}");
            }
            plain_headers(&answer);
            answers += 1;
        }
        let mut garbage = Connection::open(service.address());
        garbage.send(b"marker\r\n\r\n");
        garbage.finish_sending();
        let answer = String::from_utf8(garbage.read_to_end().unwrap()).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 400 ") && body.is_empty(), "{answer}");
        assert!(!head.to_lowercase().contains("server:"), "{answer}");
        answers += 1;
    }
    plain_headers(&service_b.get("/call-echo?msg=hello"));
    println!("{answers} answers, all plain");
}

/// Nothing but what the answer needs.
fn plain_headers(answer: &testkit::http::Response) {
    const NEEDED: [&str; 7] = [
        "allow",
        "content-length",
        "content-type",
        "connection",
        "date",
        "retry-after",
        "x-trace-id",
    ];
    for (name, value) in &answer.headers {
        assert!(NEEDED.contains(&name.as_str()), "{name}: {value}");
    }
}

const SECRET: &str = "hunter2";

/// Nothing that the service says, anywhere, has the secret in it.
fn assert_discreet(service: &Process, case: &str) {
    let page = service.get("/metrics");
    let said = [service.stdout().join("\n"), service.stderr().join("\n"), page.text().to_owned()];
    for text in said {
        assert!(!text.contains(SECRET), "{case}: {text}");
    }
}

#[test]
fn exporter_credentials_are_redacted() {
    let (mut services, mut lines) = (0, 0);
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let (nobody, hanging) = (ReservedPort::take(), FakeServer::start(Reply::Stall(vec![])));
        let (healthy, failing) = (OtlpCollector::start(), OtlpCollector::start());
        failing.set_behavior(Behavior::Fail { grpc: 16, http: 401 });
        let of = |receiver: &OtlpCollector| receiver.variables(protocol)[0].1.clone();
        for (case, endpoint) in [
            ("healthy", of(&healthy)),
            ("failing", of(&failing)),
            ("refusing", format!("http://{}", nobody.address())),
            ("hanging", hanging.url()),
        ] {
            let with_user = endpoint.replace("http://", &format!("http://user:{SECRET}@"));
            let launch = || {
                service_a()
                    .envs(healthy.variables(protocol))
                    .env("OTEL_EXPORTER_OTLP_ENDPOINT", &with_user)
                    .env("OTEL_EXPORTER_OTLP_HEADERS", format!("authorization=Bearer {SECRET}"))
                    .env("OTEL_BSP_EXPORT_TIMEOUT", "200")
                    .env("RUST_LOG", "trace")
            };
            let service = launch().serve();
            assert_eq!(service.get("/echo").status, 200);
            service.wait_for_metrics("a span sent or lost", |page| {
                page.sum("otel_sdk_exporter_span_exported_total", &[]) == 1.0
            });
            assert_discreet(&service, case);
            let exit = service.stop();
            let said = [exit.stdout, exit.stderr].concat();
            (services, lines) = (services + 1, lines + said.len());
            let said = said.join("\n");
            assert!(!said.contains(SECRET), "{case}: {said}");
            for word in ["--help", "--version", "--no-such-flag"] {
                let exit = launch().arg(word).run_to_exit();
                let said = [exit.stdout, exit.stderr].concat().join("\n");
                assert!(!said.contains(SECRET), "{word}: {said}");
            }
        }
        let exports = healthy.exports();
        assert_eq!(exports[0].headers["authorization"], format!("Bearer {SECRET}"));
        let spans: Vec<_> = exports.into_iter().map(|export| export.spans).collect();
        assert!(!format!("{spans:?}").contains(SECRET));
    }
    println!("{services} services, {lines} lines of log: no secret");
    let exit = service_a().env("OTEL_EXPORTER_OTLP_ENDPOINT", SECRET).run_to_exit();
    assert_eq!(exit.code, Some(2));
    assert!(!exit.stderr.join("\n").contains(SECRET), "{exit:?}");
}
