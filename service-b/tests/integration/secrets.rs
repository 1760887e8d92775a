//! Credentials in `SERVICE_A_URL` reach service A and appear in no output.

use testkit::otlp::{OtlpCollector, Protocol};
use testkit::{FakeServer, Reply};

use crate::service_b;

/// Parts of the URL. The last is the encoded user and password of the `Authorization` header.
const SECRETS: [&str; 5] = ["hunter2", "tok3n", "alice", "fr4gment", "YWxpY2U6aHVudGVyMg"];

fn url_with_secrets(service_a: &FakeServer) -> String {
    format!("http://alice:hunter2@{}/base/?token=tok3n#fr4gment", service_a.address())
}

fn assert_no_secret(source: &str, text: &str) {
    for secret in SECRETS {
        assert!(!text.contains(secret), "{secret} in {source}: {text}");
    }
}

#[test]
fn upstream_credentials_are_redacted() {
    let collector = OtlpCollector::start();
    let service_a = FakeServer::start(Reply::echo("hello"));
    let service = service_b(url_with_secrets(&service_a))
        .envs(collector.variables(Protocol::Grpc))
        .env("RUST_LOG", "trace")
        .serve();
    let (mut spans, mut responses) = (0, 0);
    for reply in [
        Reply::echo("hello"),
        Reply::Close(Vec::new()),
        Reply::Json(500, String::new()),
        Reply::Json(200, "garbage".to_owned()),
        Reply::Close(Reply::start_of(100, "")),
        Reply::Close(b"garbage\r\n".to_vec()),
        Reply::Stall(Vec::new()),
    ] {
        service_a.set_reply(reply);
        let response = service.get("/call-echo?msg=hello");
        assert_no_secret("the body", response.text());
        assert_no_secret("the headers", &format!("{:?}", response.headers));
        service.wait_for_access_line(response.trace_id());
        spans += collector.wait_for_trace(response.trace_id(), 2).len();
        responses += 1;
    }
    assert_eq!(spans, 2 * responses);
    let request = &service_a.requests()[0];
    assert_eq!(request.line, "GET /base/echo?msg=hello HTTP/1.1");
    assert_eq!(request.headers["authorization"], "Basic YWxpY2U6aHVudGVyMg==");

    assert_no_secret("the log", &service.stdout().join("\n"));
    assert_no_secret("stderr", &service.stderr().join("\n"));
    assert_no_secret("the metrics", service.get("/metrics").text());
    assert_no_secret("the spans", &format!("{:?}", collector.exports()));
    let lines = service.stdout().len();
    println!("{responses} responses, {spans} spans, {lines} log lines without secrets");
}

#[test]
fn errors_do_not_repeat_url() {
    let service_a = FakeServer::start(Reply::echo("hello"));
    let help = service_b(url_with_secrets(&service_a)).arg("--help").run_to_exit();
    assert_eq!(help.code, Some(0));
    assert_no_secret("--help", &help.stdout.join("\n"));
    for url in [
        "ftp://alice:hunter2@host/?token=tok3n",
        "http://alice:hunter2@host:port/?token=tok3n",
        "alice:hunter2@host?token=tok3n",
    ] {
        let exit = service_b(url).run_to_exit();
        assert_eq!(exit.code, Some(2), "{url}");
        let message = exit.stderr.join("\n");
        assert!(message.contains("SERVICE_A_URL"), "{message}");
        assert_no_secret("the message", &message);
    }
}
