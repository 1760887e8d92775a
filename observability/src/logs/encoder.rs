//! Encoder of one line, in logfmt or JSON.

use std::cell::Cell;
use std::fmt::Display;
use std::io::Write as _;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::SpanContext;

use crate::config::LogFormat;
use crate::hex::write_hex;

/// Name of a field.
#[derive(Clone, Copy)]
pub(super) enum Key<'a> {
    /// Name known at compile time, with its punctuation in each format.
    Static { logfmt: &'static str, json: &'static str },
    /// Name of an event's field. A name that the line itself uses gets a prefix.
    Dynamic(&'a str),
}

/// Names that each line of an event uses itself.
const RESERVED_NAMES: [&str; 7] =
    ["ts", "level", "service", "target", "msg", "trace_id", "span_id"];

/// Creates a [`Key::Static`].
macro_rules! key {
    ($name:literal) => {
        $crate::logs::encoder::Key::Static {
            logfmt: concat!(" ", $name, "="),
            json: concat!(",\"", $name, "\":"),
        }
    };
}
pub(super) use key;

/// Encoder of one line. Results of `write!` are ignored because writing to a `Vec` does not fail.
pub(super) struct LineEncoder<'a> {
    buffer: &'a mut Vec<u8>,
    format: LogFormat,
}

impl<'a> LineEncoder<'a> {
    pub(super) fn start(
        buffer: &'a mut Vec<u8>,
        format: LogFormat,
        level: &str,
        service: &str,
    ) -> Self {
        let mut line = Self { buffer, format };
        match format {
            LogFormat::Logfmt => {
                write_timestamp(line.buffer);
                line.text(" level=");
                line.text(level);
            }
            LogFormat::Json => {
                line.text("{\"ts\":\"");
                write_timestamp(line.buffer);
                line.text("\",\"level\":\"");
                line.text(level);
                line.text("\"");
            }
        }
        line.field_str(key!("service"), service);
        line
    }

    pub(super) fn end(self) {
        self.buffer.extend_from_slice(match self.format {
            LogFormat::Logfmt => b"\n",
            LogFormat::Json => b"}\n",
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
                self.event_field_name(name);
                self.text("=");
            }
            (Key::Dynamic(name), LogFormat::Json) => {
                self.text(",\"");
                self.event_field_name(name);
                self.text("\":");
            }
        }
    }

    fn event_field_name(&mut self, name: &str) {
        if RESERVED_NAMES.contains(&name) {
            self.text("field.");
        }
        // A name may be a string literal with any characters.
        for c in name.chars() {
            match c {
                ' ' | '=' | '"' | '\\' => self.text("_"),
                c if is_escaped(c) => self.text("_"),
                c => self.text(c.encode_utf8(&mut [0; 4])),
            }
        }
    }

    /// Writes a string, quoted if needed.
    pub(super) fn field_str(&mut self, key: Key<'_>, value: &str) {
        if needs_quotes(value) {
            self.field_quoted(key, value);
        } else {
            self.field_raw_str(key, value);
        }
    }

    /// Writes a string that needs no quotes in logfmt and no escapes in JSON.
    pub(super) fn field_raw_str(&mut self, key: Key<'_>, value: &str) {
        self.field_raw_bytes(key, value.as_bytes());
    }

    fn field_raw_bytes(&mut self, key: Key<'_>, value: &[u8]) {
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

    /// Writes a string, always quoted.
    pub(super) fn field_quoted(&mut self, key: Key<'_>, value: &str) {
        self.key(key);
        self.text("\"");
        escape(self.buffer, value);
        self.text("\"");
    }

    pub(super) fn field_number(&mut self, key: Key<'_>, value: impl itoa::Integer) {
        self.key(key);
        self.text(itoa::Buffer::new().format(value));
    }

    /// Writes a value whose text is the same in both formats, such as a boolean.
    pub(super) fn field_literal(&mut self, key: Key<'_>, value: impl Display) {
        self.key(key);
        let _ = write!(self.buffer, "{value}");
    }

    pub(super) fn span_context(&mut self, span: &SpanContext) {
        if span.is_valid() {
            self.field_hex(key!("trace_id"), &span.trace_id().to_bytes());
            self.field_hex(key!("span_id"), &span.span_id().to_bytes());
        }
    }

    fn field_hex(&mut self, key: Key<'_>, bytes: &[u8]) {
        let mut digits = [0; 32];
        let digits = &mut digits[..bytes.len() * 2];
        write_hex(digits, bytes);
        self.field_raw_bytes(key, digits);
    }
}

/// Writes the time, RFC 3339 with milliseconds, in UTC. All but the milliseconds is formatted once per
/// second on each thread.
pub(super) fn write_timestamp(buf: &mut Vec<u8>) {
    /// `2026-02-04T21:10:32.`
    type Seconds = [u8; 20];
    thread_local! {
        static LAST: Cell<(u64, Seconds)> = const { Cell::new((u64::MAX, [0; 20])) };
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (mut second, mut text) = LAST.get();
    if second != now.as_secs() {
        second = now.as_secs();
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        // Fails after the year 9999. The last text then stays.
        let _ = write!(&mut text[..], "{}", humantime::format_rfc3339_millis(time));
        LAST.set((second, text));
    }
    buf.extend_from_slice(&text);
    let millis = now.subsec_millis();
    buf.extend([100, 10, 1].map(|unit| b"0123456789"[(millis / unit % 10) as usize]));
    buf.push(b'Z');
}

/// Returns `true` if an unquoted value could be read as anything but one value.
fn needs_quotes(value: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'=' | b'\\');
    // Nearly every value is plain ASCII. Characters are decoded only for the others.
    value.is_empty()
        || !value.bytes().all(is_plain)
            && value.chars().any(|c| matches!(c, ' ' | '"' | '=' | '\\') || is_escaped(c))
}

/// Returns `true` for characters that a terminal or a line reader may interpret: controls, the two Unicode
/// line separators, and the marks that change the direction of text.
fn is_escaped(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}'
            | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Writes `value` with JSON escapes, which logfmt uses as well.
fn escape(buf: &mut Vec<u8>, value: &str) {
    for c in value.chars() {
        match c {
            '"' => buf.extend_from_slice(b"\\\""),
            '\\' => buf.extend_from_slice(b"\\\\"),
            '\n' => buf.extend_from_slice(b"\\n"),
            '\r' => buf.extend_from_slice(b"\\r"),
            '\t' => buf.extend_from_slice(b"\\t"),
            c if is_escaped(c) => {
                let _ = write!(buf, "\\u{:04x}", u32::from(c));
            }
            c => buf.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}
