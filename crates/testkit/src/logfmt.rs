//! A log line, read as strictly as it was promised.

use std::ops::Index;

/// One line of a log, in logfmt or JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Its fields in their order, the values decoded; the time is the field `ts`.
    pub fields: Vec<(String, String)>,
}

impl LogLine {
    /// Reads a line: `TIME key=value key="quoted value" …`, or one JSON object of strings and
    /// numbers.
    ///
    /// # Panics
    /// Where the line is no legal one, or has a field twice.
    pub fn parse(line: &str) -> Self {
        let read = if line.starts_with('{') { parse_json(line) } else { parse_logfmt(line) };
        let fields = read.unwrap_or_else(|| panic!("not a log line: {line:?}"));
        for (at, (key, _)) in fields.iter().enumerate() {
            assert!(!fields[..at].iter().any(|(earlier, _)| earlier == key), "{key} twice: {line}");
        }
        Self { fields }
    }

    /// The value of a field.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.fields.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    /// The names of the fields in their order.
    pub fn keys(&self) -> Vec<&str> {
        self.fields.iter().map(|(key, _)| key.as_str()).collect()
    }
}

impl Index<&str> for LogLine {
    type Output = str;
    fn index(&self, key: &str) -> &str {
        self.get(key).unwrap_or_else(|| panic!("no {key} in {self:?}"))
    }
}

fn parse_json(line: &str) -> Option<Vec<(String, String)>> {
    let object: serde_json::Map<_, _> = serde_json::from_str(line).ok()?;
    let text = |value: serde_json::Value| match value {
        serde_json::Value::String(text) => Some(text),
        serde_json::Value::Number(_) | serde_json::Value::Bool(_) => Some(value.to_string()),
        _ => None,
    };
    object.into_iter().map(|(key, value)| Some((key, text(value)?))).collect()
}

fn parse_logfmt(line: &str) -> Option<Vec<(String, String)>> {
    if line.chars().any(char::is_control) {
        return None;
    }
    let (time, mut rest) = line.split_once(' ')?;
    if !is_time(time) {
        return None;
    }
    let mut fields = vec![("ts".to_owned(), time.to_owned())];
    loop {
        let (key, after) = rest.split_once('=')?;
        let is_key = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.');
        if key.is_empty() || !key.chars().all(is_key) {
            return None;
        }
        let (value, after) = if after.starts_with('"') { quoted(after)? } else { bare(after)? };
        fields.push((key.to_owned(), value));
        match after.strip_prefix(' ') {
            Some(after) => rest = after,
            None if after.is_empty() => return Some(fields),
            None => return None,
        }
    }
}

/// A value without quotes and what comes after it.
fn bare(text: &str) -> Option<(String, &str)> {
    let (value, after) = text.split_at(text.find(' ').unwrap_or(text.len()));
    let legal = !value.is_empty() && !value.contains(['"', '=', '\\']);
    legal.then(|| (value.to_owned(), after))
}

/// A value in quotes, with JSON's escapes, and what comes after it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut escaped = false;
    let end = text.bytes().skip(1).position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })?;
    let (value, after) = text.split_at(end + 2);
    Some((serde_json::from_str(value).ok()?, after))
}

/// `2026-02-04T21:10:32.760Z`
fn is_time(text: &str) -> bool {
    text.len() == 24
        && text.bytes().zip(b"0000-00-00T00:00:00.000Z").all(|(byte, pattern)| match pattern {
            b'0' => byte.is_ascii_digit(),
            _ => byte == *pattern,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: &str = "2026-02-04T21:10:32.760Z";

    #[test]
    fn fields_are_read_in_their_order() {
        let line = LogLine::parse(&format!(r#"{TIME} level=info msg="a \"b\" c\n=" n=3"#));
        assert_eq!(line.keys(), ["ts", "level", "msg", "n"]);
        assert_eq!(&line["msg"], "a \"b\" c\n=");
        assert_eq!(&line["n"], "3");
        assert_eq!(line.get("x"), None);
    }

    #[test]
    fn what_is_no_log_line_is_not_read_as_one() {
        for rest in ["", "level", "a=b=c", "a=", "a=\"b", "a=\"b\"c=d", "a=b  c=d", "a=b\tc", "=b"]
        {
            assert_eq!(parse_logfmt(&format!("{TIME} {rest}")), None, "{rest:?}");
        }
        assert_eq!(parse_logfmt("2026-02-04 level=info"), None);
    }
}
