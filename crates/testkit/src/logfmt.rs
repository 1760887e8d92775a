//! Strict parser for log lines.

use std::ops::Index;

/// Log line in logfmt or JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Fields in the order of the line, with decoded values. The timestamp is the field `ts`.
    pub fields: Vec<(String, String)>,
}

impl LogLine {
    /// Parses `TIME key=value key="quoted value" …` or a JSON object of strings, numbers and booleans.
    ///
    /// # Panics
    /// If the line is malformed or a field occurs twice.
    pub fn parse(line: &str) -> Self {
        let parsed = if line.starts_with('{') { parse_json(line) } else { parse_logfmt(line) };
        let fields = parsed.unwrap_or_else(|| panic!("malformed log line: {line:?}"));
        for (index, (key, _)) in fields.iter().enumerate() {
            let is_duplicate = fields[..index].iter().any(|(earlier, _)| earlier == key);
            assert!(!is_duplicate, "duplicate field {key}: {line}");
        }
        Self { fields }
    }

    /// Returns the value of a field.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.fields.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    /// Returns the field names in the order of the line.
    pub fn keys(&self) -> Vec<&str> {
        self.fields.iter().map(|(key, _)| key.as_str()).collect()
    }
}

impl Index<&str> for LogLine {
    type Output = str;
    fn index(&self, key: &str) -> &str {
        self.get(key).unwrap_or_else(|| panic!("no field {key} in {self:?}"))
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
    // Milliseconds in UTC, like `2026-02-04T21:10:32.760Z`.
    if time.len() != 24 || humantime::parse_rfc3339(time).is_err() {
        return None;
    }
    let mut fields = vec![("ts".to_owned(), time.to_owned())];
    loop {
        let (key, after) = rest.split_once('=')?;
        let is_key = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.');
        if key.is_empty() || !key.chars().all(is_key) {
            return None;
        }
        let (value, after) = split_quoted(after).or_else(|| split_bare(after))?;
        fields.push((key.to_owned(), value));
        match after.strip_prefix(' ') {
            Some(after) => rest = after,
            None if after.is_empty() => return Some(fields),
            None => return None,
        }
    }
}

/// Splits `text` after a value without quotes.
fn split_bare(text: &str) -> Option<(String, &str)> {
    let (value, after) = text.split_at(text.find(' ').unwrap_or(text.len()));
    let is_valid = !value.is_empty() && !value.contains(['"', '=', '\\']);
    is_valid.then(|| (value.to_owned(), after))
}

/// Splits `text` after a value in quotes, which has JSON escapes.
pub(crate) fn split_quoted(text: &str) -> Option<(String, &str)> {
    if !text.starts_with('"') {
        return None;
    }
    let mut values = serde_json::Deserializer::from_str(text).into_iter();
    let value = values.next()?.ok()?;
    Some((value, &text[values.byte_offset()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: &str = "2026-02-04T21:10:32.760Z";

    #[test]
    fn parses_fields_in_order() {
        let line = LogLine::parse(&format!(r#"{TIME} level=info msg="a \"b\" c\n=" n=3"#));
        assert_eq!(line.keys(), ["ts", "level", "msg", "n"]);
        assert_eq!(&line["msg"], "a \"b\" c\n=");
        assert_eq!(&line["n"], "3");
        assert_eq!(line.get("x"), None);
    }

    #[test]
    fn rejects_malformed_lines() {
        for rest in ["", "level", "a=b=c", "a=", "a=\"b", "a=\"b\"c=d", "a=b  c=d", "a=b\tc", "=b"]
        {
            assert_eq!(parse_logfmt(&format!("{TIME} {rest}")), None, "{rest:?}");
        }
        assert_eq!(parse_logfmt("2026-02-04 level=info"), None);
    }
}
