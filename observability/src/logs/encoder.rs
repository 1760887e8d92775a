//! Encoder of one line, in logfmt or JSON.

use std::borrow::Cow;
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
    /// Name that only the line itself uses, with its punctuation in each format.
    Static { logfmt: &'static str, json: &'static str },
    /// Name of the message of an event.
    Message,
    /// Name of a field of an event or a span. A name that the line itself uses gets a prefix.
    Field(&'static str),
    /// Name of a field that a handler adds to the line of its request.
    Recorded(&'a str),
}

impl Key<'_> {
    /// Returns the name in the line.
    fn name(self) -> Cow<'static, str> {
        match self {
            Self::Static { .. } | Self::Message => "msg".into(),
            Self::Field(name) => valid_name(name).map_or(Cow::Borrowed(name), Cow::Owned),
            Self::Recorded(name) if ACCESS_NAMES.contains(&name) => format!("field.{name}").into(),
            Self::Recorded(name) => valid_name(name).unwrap_or_else(|| name.to_owned()).into(),
        }
    }
}

/// Returns a name to use in place of `name`, or `None` if `name` can be used.
fn valid_name(name: &str) -> Option<String> {
    if RESERVED_NAMES.contains(&name) {
        Some(format!("field.{name}"))
    } else if name.is_empty() {
        Some("_".to_owned())
    } else {
        // A name may be a string literal with any characters.
        name.chars().any(needs_replacement).then(|| name.replace(needs_replacement, "_"))
    }
}

/// Names that each line of an event uses itself.
const RESERVED_NAMES: [&str; 7] =
    ["ts", "level", "service", "target", "msg", "trace_id", "span_id"];

/// Names that each line of a request uses besides [`RESERVED_NAMES`].
const ACCESS_NAMES: [&str; 8] = [
    "endpoint",
    "status",
    "http_status",
    "error",
    "complete_error",
    "latency_ms",
    "method",
    "path",
];

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
    /// Names of the fields of the event and its spans, with their positions in the buffer.
    names: Vec<(Cow<'static, str>, usize)>,
}

/// Encoded fields of a span, for the lines of the events inside.
pub(super) struct SpanFields {
    text: Vec<u8>,
    /// Names of the fields, with their positions in the text.
    names: Vec<(Cow<'static, str>, usize)>,
}

impl SpanFields {
    pub(super) fn encode(format: LogFormat, record: impl FnOnce(&mut LineEncoder<'_>)) -> Self {
        let mut fields = Self { text: Vec::new(), names: Vec::new() };
        fields.extend(format, record);
        fields
    }

    /// Adds the fields of `earlier` that have no new value.
    pub(super) fn add_earlier(&mut self, format: LogFormat, earlier: &Self) {
        self.extend(format, |line| line.span_fields(earlier));
    }

    fn extend(&mut self, format: LogFormat, add: impl FnOnce(&mut LineEncoder<'_>)) {
        let names = std::mem::take(&mut self.names);
        let mut line = LineEncoder { buffer: &mut self.text, format, names };
        add(&mut line);
        self.names = line.names;
    }
}

impl<'a> LineEncoder<'a> {
    pub(super) fn start(
        buffer: &'a mut Vec<u8>,
        format: LogFormat,
        level: &str,
        service: &str,
    ) -> Self {
        let mut line = Self { buffer, format, names: Vec::new() };
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

    /// Writes the name of a field. Returns `false` if the line has a field of an event or a span with this
    /// name.
    fn key(&mut self, key: Key<'_>) -> bool {
        match (key, self.format) {
            (Key::Static { logfmt, .. }, LogFormat::Logfmt) => self.text(logfmt),
            (Key::Static { json, .. }, LogFormat::Json) => self.text(json),
            (Key::Message | Key::Field(_) | Key::Recorded(_), format) => {
                let name = key.name();
                if self.has_field(&name) {
                    return false;
                }
                let (before, after) = match format {
                    LogFormat::Logfmt => (" ", "="),
                    LogFormat::Json => (",\"", "\":"),
                };
                let start = self.buffer.len();
                self.text(before);
                self.text(&name);
                self.text(after);
                self.names.push((name, start));
            }
        }
        true
    }

    fn has_field(&self, name: &str) -> bool {
        self.names.iter().any(|(known, _)| known == name)
    }

    /// Adds the fields of a span whose names are not in the line.
    pub(super) fn span_fields(&mut self, fields: &SpanFields) {
        let ends = fields.names.iter().skip(1).map(|(_, start)| *start).chain([fields.text.len()]);
        for ((name, start), end) in fields.names.iter().zip(ends) {
            if !self.has_field(name) {
                self.names.push((name.clone(), self.buffer.len()));
                self.buffer.extend_from_slice(&fields.text[*start..end]);
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
        if !self.key(key) {
            return;
        }
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
        if self.key(key) {
            self.text("\"");
            escape(self.buffer, value);
            self.text("\"");
        }
    }

    pub(super) fn field_number(&mut self, key: Key<'_>, value: impl itoa::Integer) {
        if self.key(key) {
            self.text(itoa::Buffer::new().format(value));
        }
    }

    /// Writes a value whose text is the same in both formats, such as a boolean.
    pub(super) fn field_literal(&mut self, key: Key<'_>, value: impl Display) {
        if self.key(key) {
            let _ = write!(self.buffer, "{value}");
        }
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
        let mut full = [0; 24];
        // Fails after the year 9999. The last text then stays.
        if write!(&mut full[..], "{}", humantime::format_rfc3339_millis(time)).is_ok() {
            text.copy_from_slice(&full[..20]);
        }
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
    value.is_empty() || !value.bytes().all(is_plain) && value.chars().any(needs_replacement)
}

/// Returns `true` for characters that a name cannot have in one of the formats.
fn needs_replacement(c: char) -> bool {
    matches!(c, ' ' | '=' | '"' | '\\') || is_escaped(c)
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
