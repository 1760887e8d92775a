//! The log: one line a request and one an event, logfmt or JSON, written by a thread of its own.
//!
//! A line is formatted into a buffer that is used again and handed to `NonBlockingWriter`, which never waits:
//! a slow or closed stdout costs lines, and lost lines are counted, but no request ever stands still.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::Write as _;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{SpanContext, TraceContextExt};
use tracing::dispatcher::WeakDispatch;
use tracing::field::{Field, Visit};
use tracing::{Dispatch, Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

mod sink;

use crate::config::LogFormat;

pub(crate) use sink::{DroppedLines, NonBlockingWriter};

/// The target of the lines that requests write, for `RUST_LOG`: `RUST_LOG=info,access=warn`.
pub const ACCESS_TARGET: &str = "access";

/// One request, as its line shows it.
pub(crate) struct AccessEntry<'a> {
    pub(crate) endpoint: &'a str,
    pub(crate) method: &'a str,
    /// `None` where the caller went away before there was an answer.
    pub(crate) http_status: Option<u16>,
    pub(crate) failure: Option<(&'a str, &'a str)>,
    pub(crate) latency_ms: u64,
    pub(crate) span: &'a SpanContext,
}

/// Writes lines for one service.
#[derive(Clone)]
pub(crate) struct Logger {
    sink: Arc<NonBlockingWriter>,
    format: LogFormat,
    service: &'static str,
    access: [bool; 3],
}

impl Logger {
    pub(crate) fn new(
        sink: Arc<NonBlockingWriter>,
        format: LogFormat,
        service: &'static str,
        filter: &Targets,
    ) -> Self {
        let access = [Level::INFO, Level::WARN, Level::ERROR]
            .map(|level| filter.would_enable(ACCESS_TARGET, &level));
        Self { sink, format, service, access }
    }

    pub(crate) fn sink(&self) -> &Arc<NonBlockingWriter> {
        &self.sink
    }

    /// The line of one request. `status` is `ok` below 400 and `error` from there on; a request
    /// whose caller went away has no status of its own and counts as an error.
    pub(crate) fn access(&self, access: &AccessEntry<'_>) {
        let (enabled, level, ok) = match access.http_status {
            Some(..400) if access.failure.is_none() => (self.access[0], "info", true),
            Some(500..) => (self.access[2], "error", false),
            _ => (self.access[1], "warn", false),
        };
        if !enabled {
            return;
        }
        self.line(level, |line| {
            line.plain(key!("endpoint"), access.endpoint);
            line.word(key!("status"), if ok { "ok" } else { "error" });
            if !ok {
                if let Some(status) = access.http_status {
                    line.number(key!("http_status"), status.into());
                }
                if let Some((kind, details)) = access.failure {
                    line.field_quoted(key!("error"), kind);
                    line.field_quoted(key!("complete_error"), details);
                }
            }
            line.number(key!("latency_ms"), access.latency_ms);
            line.word(key!("method"), access.method);
            if ok && let Some(status) = access.http_status {
                line.number(key!("http_status"), status.into());
            }
            line.span(access.span);
        });
    }

    fn line(&self, level: &str, fields: impl FnOnce(&mut LineEncoder<'_>)) {
        thread_local! {
            static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        let write = |buffer: &mut Vec<u8>| {
            buffer.clear();
            let mut line = LineEncoder { buffer, format: self.format };
            line.start(level, self.service);
            fields(&mut line);
            line.end();
            self.sink.write_line(buffer);
            buffer.shrink_to(16 * 1024);
        };
        BUFFER.with(|buffer| match buffer.try_borrow_mut() {
            Ok(mut buffer) => write(&mut buffer),
            // A value whose formatting itself writes a log line.
            Err(_) => write(&mut Vec::new()),
        });
    }
}

/// A name and what stands around it, up to the value.
#[derive(Clone, Copy)]
enum Key<'a> {
    /// One of ours, in one piece for each format.
    Static { logfmt: &'static str, json: &'static str },
    /// A field of somebody's event.
    Dynamic(&'a str),
}

macro_rules! key {
    ($name:literal) => {
        Key::Static { logfmt: concat!(" ", $name, "="), json: concat!(",\"", $name, "\":") }
    };
}
use key;

/// A line in the making. Writing to a `Vec` cannot fail, so results are passed over here.
struct LineEncoder<'a> {
    buffer: &'a mut Vec<u8>,
    format: LogFormat,
}

impl LineEncoder<'_> {
    fn start(&mut self, level: &str, service: &str) {
        match self.format {
            LogFormat::Logfmt => {
                write_timestamp(self.buffer);
                self.text(" level=");
                self.text(level);
            }
            LogFormat::Json => {
                self.text("{\"ts\":\"");
                write_timestamp(self.buffer);
                self.text("\",\"level\":\"");
                self.text(level);
                self.text("\"");
            }
        }
        self.plain(key!("service"), service);
    }

    fn end(&mut self) {
        self.text(match self.format {
            LogFormat::Logfmt => "\n",
            LogFormat::Json => "}\n",
        });
    }

    fn text(&mut self, text: &str) {
        self.buffer.extend_from_slice(text.as_bytes());
    }

    fn key(&mut self, key: Key<'_>) {
        match (key, self.format) {
            (Key::Static { logfmt, .. }, LogFormat::Logfmt) => self.text(logfmt),
            (Key::Static { json, .. }, LogFormat::Json) => self.text(json),
            (Key::Dynamic(name), LogFormat::Logfmt) => {
                self.text(" ");
                self.text(name);
                self.text("=");
            }
            (Key::Dynamic(name), LogFormat::Json) => {
                self.text(",\"");
                self.text(name);
                self.text("\":");
            }
        }
    }

    /// A string, in quotes only where it needs them.
    fn plain(&mut self, key: Key<'_>, value: &str) {
        if needs_quotes(value) {
            self.field_quoted(key, value);
        } else {
            self.word(key, value);
        }
    }

    /// A string of ours that is known to need no quotes in logfmt and no escapes in JSON.
    fn word(&mut self, key: Key<'_>, value: &str) {
        self.field_raw_str(key, value.as_bytes());
    }

    fn field_raw_str(&mut self, key: Key<'_>, value: &[u8]) {
        self.key(key);
        match self.format {
            LogFormat::Logfmt => self.buffer.extend_from_slice(value),
            LogFormat::Json => {
                self.text("\"");
                self.buffer.extend_from_slice(value);
                self.text("\"");
            }
        }
    }

    /// A string, always in quotes.
    fn field_quoted(&mut self, key: Key<'_>, value: &str) {
        self.key(key);
        self.text("\"");
        escape(self.buffer, value);
        self.text("\"");
    }

    fn number(&mut self, key: Key<'_>, value: u64) {
        self.key(key);
        write_number(self.buffer, value);
    }

    fn span(&mut self, span: &SpanContext) {
        if span.is_valid() {
            self.hex(key!("trace_id"), &span.trace_id().to_bytes());
            self.hex(key!("span_id"), &span.span_id().to_bytes());
        }
    }

    fn hex(&mut self, key: Key<'_>, bytes: &[u8]) {
        let mut digits = [0; 32];
        let digits = &mut digits[..bytes.len() * 2];
        crate::trace_context::write_hex(digits, bytes);
        self.field_raw_str(key, digits);
    }
}

/// The time, RFC 3339 with milliseconds, in UTC. All but the milliseconds is formatted once a second
/// on each thread.
fn write_timestamp(to: &mut Vec<u8>) {
    /// As far as the seconds and the point behind them.
    type Second = [u8; 20];
    thread_local! {
        static LAST: Cell<(u64, Second)> = const { Cell::new((u64::MAX, [0; 20])) };
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (mut second, mut text) = LAST.get();
    if second != now.as_secs() {
        second = now.as_secs();
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        // Past the year 9999 there is no such text, and the last one stays.
        let _ = write!(&mut text[..], "{}", humantime::format_rfc3339_millis(time));
        LAST.set((second, text));
    }
    to.extend_from_slice(&text);
    let milliseconds = now.subsec_millis();
    to.extend([100, 10, 1].map(|unit| digit(u64::from(milliseconds / unit))));
    to.push(b'Z');
}

/// The last decimal digit.
fn digit(value: u64) -> u8 {
    b"0123456789"[(value % 10) as usize]
}

/// Decimal digits, without the machinery of `fmt`.
fn write_number(to: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = digit(value);
        value /= 10;
        if value == 0 {
            break;
        }
    }
    to.extend_from_slice(&digits[start..]);
}

/// Whether a value, left field_raw_str, could be read as anything but one value.
fn needs_quotes(value: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'=' | b'\\');
    // Nearly every value is plain ASCII; only what is not is looked at by characters.
    value.is_empty()
        || !value.bytes().all(is_plain)
            && value.chars().any(|c| matches!(c, ' ' | '"' | '=' | '\\') || is_escaped(c))
}

/// What a terminal or a line reader could take for more than a character: controls, the two
/// Unicode line separators, and the marks that change the direction of text.
fn is_escaped(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}'
            | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// JSON's escapes, in logfmt too.
fn escape(to: &mut Vec<u8>, value: &str) {
    for c in value.chars() {
        match c {
            '"' => to.extend_from_slice(b"\\\""),
            '\\' => to.extend_from_slice(b"\\\\"),
            '\n' => to.extend_from_slice(b"\\n"),
            '\r' => to.extend_from_slice(b"\\r"),
            '\t' => to.extend_from_slice(b"\\t"),
            c if is_escaped(c) => {
                let _ = write!(to, "\\u{:04x}", u32::from(c));
            }
            c => to.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

/// Writes a line for each `tracing` event, with the ids of the span it happened in.
pub(crate) struct LogLayer {
    logger: Logger,
    filter: Targets,
    /// Who knows the ids of `tracing`'s spans.
    dispatch: OnceLock<WeakDispatch>,
}

impl LogLayer {
    pub(crate) fn new(logger: Logger, filter: Targets) -> Self {
        Self { logger, filter, dispatch: OnceLock::new() }
    }

    /// Of the span that an event happened in, or else of the request.
    fn ids<S>(&self, event: &Event<'_>, cx: &Context<'_, S>) -> SpanContext
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        cx.event_span(event)
            .and_then(|span| {
                let dispatch = self.dispatch.get()?.upgrade()?;
                tracing_opentelemetry::get_otel_context(&span.id(), &dispatch)
            })
            .map_or_else(
                || opentelemetry::Context::map_current(|cx| cx.span().span_context().clone()),
                |cx| cx.span().span_context().clone(),
            )
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for LogLayer {
    fn on_register_dispatch(&self, dispatch: &Dispatch) {
        let _ = self.dispatch.set(dispatch.downgrade());
    }

    fn on_event(&self, event: &Event<'_>, cx: Context<'_, S>) {
        let metadata = event.metadata();
        if !self.filter.would_enable(metadata.target(), metadata.level()) {
            return;
        }
        let level = match *metadata.level() {
            Level::ERROR => "error",
            Level::WARN => "warn",
            Level::INFO => "info",
            Level::DEBUG => "debug",
            Level::TRACE => "trace",
        };
        let span = self.ids(event, &cx);
        self.logger.line(level, |line| {
            line.plain(key!("target"), metadata.target());
            event.record(&mut FieldVisitor { line });
            line.span(&span);
        });
    }
}

struct FieldVisitor<'a, 'b> {
    line: &'a mut LineEncoder<'b>,
}

impl FieldVisitor<'_, '_> {
    fn key(field: &Field) -> Key<'static> {
        match field.name() {
            "message" => key!("msg"),
            name => Key::Dynamic(name),
        }
    }
}

impl Visit for FieldVisitor<'_, '_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.line.field_quoted(key!("msg"), value);
        } else {
            self.line.plain(Key::Dynamic(field.name()), value);
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.line.number(Self::key(field), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.line.key(Self::key(field));
        let _ = write!(self.line.buffer, "{value}");
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.line.key(Self::key(field));
        let _ = write!(self.line.buffer, "{value}");
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.line.field_quoted(Self::key(field), &crate::error_kind::error_chain(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry::trace::{SpanId, TraceFlags, TraceId, TraceState};
    use std::sync::Mutex;
    use std::time::Duration;
    use tracing_subscriber::prelude::*;

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

    /// What `write` logs, without the time stamp.
    fn logged(format: LogFormat, filter: &str, write: impl FnOnce(&Logger)) -> String {
        let captured = Captured::default();
        let sink =
            NonBlockingWriter::start(captured.clone(), DroppedLines::unregistered()).unwrap();
        let logger = Logger::new(sink, format, "A", &filter.parse().unwrap());
        write(&logger);
        assert!(logger.sink().flush(Duration::from_secs(10)));
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
            failure: None,
            latency_ms: 7,
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
    fn numbers_are_decimal() {
        for number in [0, 7, 10, 1_234_567_890, u64::MAX] {
            let mut text = Vec::new();
            write_number(&mut text, number);
            assert_eq!(String::from_utf8(text).unwrap(), number.to_string());
        }
    }

    #[test]
    fn a_good_request() {
        let line = logged(LogFormat::Logfmt, "info", |l| l.access(&access(&span(), Some(200))));
        assert_eq!(
            line,
            format!(
                "level=info service=A endpoint=/call-echo status=ok latency_ms=7 method=GET http_status=200 {IDS}\n"
            )
        );
    }

    #[test]
    fn a_failed_request() {
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
        let gone = AccessEntry { failure: Some(("canceled", "gone")), ..access(&span, None) };
        let line = logged(LogFormat::Logfmt, "info", |l| l.access(&gone));
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
    fn an_event_has_its_message_and_fields() {
        let line = logged(LogFormat::Logfmt, "info", |l| {
            let subscriber = tracing_subscriber::registry().with(LogLayer::new(l.clone(), all()));
            tracing::subscriber::with_default(subscriber, || {
                tracing::warn!(target: "t", count = 3, ok = true, "it broke");
            });
        });
        assert_eq!(line, "level=warn service=A target=t msg=\"it broke\" count=3 ok=true\n");
    }

    /// One event with these values, as an independent reader of log lines reads it.
    fn read_back(format: LogFormat, values: [&str; 3], number: i64) -> Vec<testkit::LogLine> {
        let captured = Captured::default();
        let sink =
            NonBlockingWriter::start(captured.clone(), DroppedLines::unregistered()).unwrap();
        let logger = Logger::new(sink, format, "A", &"info".parse().unwrap());
        let subscriber = tracing_subscriber::registry().with(LogLayer::new(logger.clone(), all()));
        let [message, plain, shown] = values;
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(target: "t", plain, debug = ?shown, number, "{message}");
        });
        assert!(logger.sink().flush(Duration::from_secs(10)));
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
}
