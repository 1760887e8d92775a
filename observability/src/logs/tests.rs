use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};
use tracing_subscriber::prelude::*;

use super::encoder::write_timestamp;
use super::*;
use crate::metrics::DroppedLines;

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);
impl std::io::Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Returns the lines that `write` logs, without their timestamps.
fn logged(format: LogFormat, filter: &str, write: impl FnOnce(&Logger)) -> String {
    let captured = Captured::default();
    let writer = NonBlockingWriter::start(captured.clone(), DroppedLines::unregistered()).unwrap();
    let logger = Logger::new(writer, format, "A", &filter.parse().unwrap());
    write(&logger);
    // A flush ends early if the thread of the writer gets no processor time.
    testkit::wait_until("the lines written", || logger.writer().flush(Duration::from_secs(10)));
    let text = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
    text.lines()
        .map(|line| match format {
            LogFormat::Logfmt => line.split_once(' ').unwrap().1.to_owned() + "\n",
            LogFormat::Json => line.split_once(',').unwrap().1.to_owned() + "\n",
        })
        .collect()
}

fn all() -> Targets {
    "trace".parse().unwrap()
}

fn span() -> SpanContext {
    SpanContext::new(
        TraceId::from(0xabc),
        SpanId::from(0xde),
        TraceFlags::SAMPLED,
        false,
        TraceState::NONE,
    )
}

fn access<'a>(span: &'a SpanContext, status: Option<u16>) -> AccessEntry<'a> {
    AccessEntry {
        endpoint: "/call-echo",
        method: "GET",
        http_status: status,
        is_server_error: false,
        failure: None,
        path: None,
        latency_ms: 7,
        fields: &[],
        span,
    }
}

const IDS: &str = "trace_id=00000000000000000000000000000abc span_id=00000000000000de";

#[test]
fn timestamp_has_milliseconds() {
    for _ in 0..3 {
        let before = SystemTime::now() - Duration::from_millis(1);
        let mut text = Vec::new();
        write_timestamp(&mut text);
        let text = String::from_utf8(text).unwrap();
        assert_eq!(text.len(), "2026-02-04T21:10:32.760Z".len(), "{text}");
        let time = humantime::parse_rfc3339(&text).unwrap();
        assert!(before < time && time <= SystemTime::now(), "{text}");
    }
}

#[test]
fn access_line_of_success() {
    let line = logged(LogFormat::Logfmt, "info", |l| l.access(&access(&span(), Some(200))));
    assert_eq!(
        line,
        format!(
            "level=info service=A endpoint=/call-echo status=ok latency_ms=7 method=GET http_status=200 {IDS}\n"
        )
    );
}

#[test]
fn access_line_of_failure() {
    let span = span();
    let failed = AccessEntry {
        failure: Some(("timeout", "no answer\nservice=A status=ok")),
        ..access(&span, Some(504))
    };
    let line = logged(LogFormat::Logfmt, "info", |l| l.access(&failed));
    assert_eq!(
        line,
        format!(
            "level=error service=A endpoint=/call-echo status=error http_status=504 error=\"timeout\" complete_error=\"no answer\\nservice=A status=ok\" latency_ms=7 method=GET {IDS}\n"
        )
    );
    let line = logged(LogFormat::Json, "info", |l| l.access(&failed));
    let json: serde_json::Value = serde_json::from_str(&format!("{{{line}")).unwrap();
    assert_eq!(json["complete_error"], "no answer\nservice=A status=ok");
    assert_eq!(json["http_status"], 504);
}

#[test]
fn client_errors_log_at_warn() {
    let line = logged(LogFormat::Logfmt, "info", |l| l.access(&access(&span(), Some(400))));
    assert!(line.starts_with("level=warn service=A endpoint=/call-echo status=error http_status=400 latency_ms=7 method=GET trace_id="), "{line}");
    let span = span();
    let disconnected =
        AccessEntry { failure: Some(("canceled", "disconnected")), ..access(&span, None) };
    let line = logged(LogFormat::Logfmt, "info", |l| l.access(&disconnected));
    assert!(
        line.starts_with(
            "level=warn service=A endpoint=/call-echo status=error error=\"canceled\""
        ),
        "{line}"
    );
}

#[test]
fn access_target_is_filtered() {
    for (filter, expected) in [("info", 3), ("warn", 2), ("info,access=error", 1), ("off", 0)] {
        let lines = logged(LogFormat::Logfmt, filter, |l| {
            for status in [200, 404, 500] {
                l.access(&access(&span(), Some(status)));
            }
        });
        assert_eq!(lines.lines().count(), expected, "{filter}: {lines}");
    }
}

#[test]
fn values_are_escaped() {
    let line = logged(LogFormat::Logfmt, "info", |l| {
        let subscriber = tracing_subscriber::registry().with(LogLayer::new(l.clone(), all()));
        tracing::subscriber::with_default(subscriber, || {
            for value in [
                "a b",
                "a=b",
                "a\"b",
                "a\\b",
                "a\nb",
                "a\u{1b}[2Kb",
                "a\u{2028}b",
                "a\u{202e}b",
                "a\u{9b}b",
                "",
                "a",
            ] {
                tracing::info!(target: "t", value);
            }
        });
    });
    let values: Vec<_> = line
        .lines()
        .map(|l| l.strip_prefix("level=info service=A target=t value=").unwrap())
        .collect();
    assert_eq!(
        values,
        [
            r#""a b""#,
            r#""a=b""#,
            r#""a\"b""#,
            r#""a\\b""#,
            r#""a\nb""#,
            r#""a\u001b[2Kb""#,
            r#""a\u2028b""#,
            r#""a\u202eb""#,
            r#""a\u009bb""#,
            r#""""#,
            "a"
        ]
    );
}

#[test]
fn event_line_fields() {
    let line = logged(LogFormat::Logfmt, "info", |l| {
        let subscriber = tracing_subscriber::registry().with(LogLayer::new(l.clone(), all()));
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(target: "t", count = 3, ok = true, "it broke");
        });
    });
    assert_eq!(line, "level=warn service=A target=t msg=\"it broke\" count=3 ok=true\n");
}

/// A field of an event never repeats a name that the line uses, and finite numbers are numbers in JSON.
#[test]
fn reserved_field_names_are_prefixed() {
    let line = logged(LogFormat::Json, "info", |l| {
        let subscriber = tracing_subscriber::registry().with(LogLayer::new(l.clone(), all()));
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(
                target: "t",
                level = "x",
                ts = "y",
                trace_id = "z",
                msg = "m",
                ratio = 0.5,
                infinite = f64::INFINITY,
                "a \"b=" = 1,
                "text"
            );
        });
    });
    let json: serde_json::Value = serde_json::from_str(&format!("{{{line}")).unwrap();
    assert_eq!(json["level"], "info");
    assert_eq!(json["msg"], "text");
    for (name, value) in [("level", "x"), ("ts", "y"), ("trace_id", "z"), ("msg", "m")] {
        assert_eq!(json[format!("field.{name}")], value);
    }
    assert_eq!((line.matches("\"level\":").count(), line.matches("\"msg\":").count()), (1, 1));
    assert_eq!(json["ratio"], 0.5);
    assert_eq!(json["infinite"], "inf");
    assert_eq!(json["a__b_"], 1);
}

/// Logs one event with these values, and reads it back with an independent parser.
fn read_back(format: LogFormat, values: [&str; 3], number: i64) -> Vec<testkit::LogLine> {
    let captured = Captured::default();
    let writer = NonBlockingWriter::start(captured.clone(), DroppedLines::unregistered()).unwrap();
    let logger = Logger::new(writer, format, "A", &"info".parse().unwrap());
    let subscriber = tracing_subscriber::registry().with(LogLayer::new(logger.clone(), all()));
    let [message, plain, shown] = values;
    tracing::subscriber::with_default(subscriber, || {
        tracing::info!(target: "t", plain, debug = ?shown, number, "{message}");
    });
    testkit::wait_until("the lines written", || logger.writer().flush(Duration::from_secs(10)));
    let text = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
    text.lines().map(testkit::LogLine::parse).collect()
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig {
        failure_persistence: None,
        ..proptest::prelude::ProptestConfig::default()
    })]

    #[test]
    fn log_line_round_trip(
        message in "(\\PC|[ =\"\\\\\r\n\t\u{1b}\u{85}\u{2028}\u{202e}]|level=){0,12}",
        plain in "(\\PC|[ =\"\\\\\r\n\t\u{1b}\u{85}\u{2028}\u{202e}]|level=){0,12}",
        debug in "[ -~\r\n]{0,12}",
        number in proptest::prelude::any::<i64>(),
    ) {
        for format in [LogFormat::Logfmt, LogFormat::Json] {
            let lines = read_back(format, [&message, &plain, &debug], number);
            let [line] = lines.as_slice() else { panic!("{lines:#?}") };
            let keys = ["ts", "level", "service", "target", "msg", "plain", "debug", "number"];
            let mut names = line.keys();
            names.sort_unstable();
            let mut keys = keys.to_vec();
            keys.sort_unstable();
            proptest::prop_assert_eq!(names, keys);
            proptest::prop_assert_eq!(&line["level"], "info");
            proptest::prop_assert_eq!(&line["msg"], &message);
            proptest::prop_assert_eq!(&line["plain"], &plain);
            proptest::prop_assert_eq!(&line["debug"], &format!("{debug:?}"));
            proptest::prop_assert_eq!(&line["number"], &number.to_string());
        }
    }
}
