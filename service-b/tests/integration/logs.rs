//! Access lines of failed calls.

use testkit::{FakeServer, Reply};

use crate::service_b;

/// JSON and logfmt lines have the same fields and values.
#[test]
fn json_access_line_of_failure() {
    let service_a = FakeServer::start(Reply::Json(500, String::new()));
    let line = |format: &str| {
        let service = service_b(service_a.url()).env("LOG_FORMAT", format).serve();
        let response = service.get("/call-echo?msg=hello");
        service.wait_for_access_line(response.trace_id());
        service.stdout().pop().unwrap()
    };
    let fields = |line: &str| {
        let line = testkit::LogLine::parse(line);
        let is_stable = |(key, _): &(String, String)| {
            !matches!(key.as_str(), "ts" | "latency_ms" | "trace_id" | "span_id")
        };
        let mut names: Vec<_> = line.keys().into_iter().map(str::to_owned).collect();
        names.sort();
        let mut stable: Vec<_> = line.fields.into_iter().filter(is_stable).collect();
        stable.sort();
        (names, stable)
    };
    let json = line("json");
    assert_eq!(fields(&line("logfmt")), fields(&json));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["error"], &json["http_status"]), (&"500".into(), &502.into()));
}

/// No response from service A can forge a log line or a field.
#[test]
fn upstream_text_is_escaped() {
    for format in ["logfmt", "json"] {
        let service_a = FakeServer::start(Reply::echo(""));
        let service = service_b(service_a.url()).env("LOG_FORMAT", format).serve();
        for body in [
            "\"\\n2026-02-04T21:10:32.760Z level=info service=B status=ok\"",
            "\"a\\\" status=ok b=\\\"\"",
            "\"\\u001b[2K\\u2028\\u202e\"",
        ] {
            service_a.set_reply(Reply::Json(200, body.to_owned()));
            let response = service.get("/call-echo?msg=hello");
            assert_eq!(&service.wait_for_access_line(response.trace_id())["error"], "decode");
        }
        let lines = service.stdout();
        assert_eq!(lines.len(), 4, "{lines:#?}");
        assert!(!lines.iter().any(|line| line.contains(['\u{1b}', '\u{2028}', '\u{202e}'])));
    }
}
