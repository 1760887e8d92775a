//! Credentials in `SERVICE_A_URL` are for service A alone.

use testkit::otlp::{OtlpCollector, Protocol};
use testkit::{FakeServer, Reply};

use crate::service_b;

/// The last is user and password as they go out.
const SECRETS: [&str; 5] = ["hunter2", "tok3n", "alice", "fr4gment", "YWxpY2U6aHVudGVyMg"];

fn with_secrets(service_a: &FakeServer) -> String {
    format!("http://alice:hunter2@{}/base/?token=tok3n#fr4gment", service_a.address())
}

fn assert_clean(what: &str, text: &str) {
    for secret in SECRETS {
        assert!(!text.contains(secret), "{secret} in {what}: {text}");
    }
}

#[test]
fn upstream_credentials_are_redacted() {
    let backend = OtlpCollector::start();
    let service_a = FakeServer::start(Reply::echo("hello"));
    let service = service_b(with_secrets(&service_a))
        .envs(backend.variables(Protocol::Grpc))
        .env("RUST_LOG", "trace")
        .serve();
    let (mut spans, mut answers) = (0, 0);
    for reply in [
        Reply::echo("hello"),
        Reply::Close(Vec::new()),
        Reply::Json(500, String::new()),
        Reply::Json(200, "garbage".to_owned()),
        Reply::Close(Reply::start_of(100, "")),
        Reply::Close(b"garbage\r\n".to_vec()),
        Reply::Stall(Vec::new()),
    ] {
        service_a.reply(reply);
        let answer = service.get("/call-echo?msg=hello");
        assert_clean("the answer", answer.text());
        assert_clean("the headers", &format!("{:?}", answer.headers));
        service.wait_for_access(answer.trace_id());
        spans += backend.wait_for_trace(answer.trace_id(), 2).len();
        answers += 1;
    }
    assert_eq!(spans, 2 * answers);
    // They are what A expects.
    let request = &service_a.requests()[0];
    assert_eq!(request.line, "GET /base/echo?msg=hello HTTP/1.1");
    assert_eq!(request.headers["authorization"], "Basic YWxpY2U6aHVudGVyMg==");

    assert_clean("the log", &service.stdout().join("\n"));
    assert_clean("stderr", &service.stderr().join("\n"));
    assert_clean("the metrics", service.get("/metrics").text());
    assert_clean("the spans", &format!("{:?}", backend.exports()));
    let lines = service.stdout().len();
    println!("{answers} answers, {spans} spans, {lines} lines of log: no secret");
}

#[test]
fn errors_do_not_repeat_url() {
    let service_a = FakeServer::start(Reply::echo("hello"));
    let help = service_b(with_secrets(&service_a)).arg("--help").run_to_exit();
    assert_eq!(help.code, Some(0));
    assert_clean("--help", &help.stdout.join("\n"));
    for bad in [
        "ftp://alice:hunter2@host/?token=tok3n",
        "http://alice:hunter2@host:port/?token=tok3n",
        "alice:hunter2@host?token=tok3n",
    ] {
        let exit = service_b(bad).run_to_exit();
        assert_eq!(exit.code, Some(2), "{bad}");
        let message = exit.stderr.join("\n");
        assert!(message.contains("SERVICE_A_URL"), "{message}");
        assert_clean("the message", &message);
    }
}
