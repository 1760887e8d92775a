/// Maximum size of a text that a client controls, in a span and in a log line, in bytes. Bounds the memory of
/// queued spans.
pub(crate) const MAX_CLIENT_TEXT_BYTES: usize = 1024;

/// Returns at most `max` bytes from the start of `text`, cut at a character boundary.
pub(crate) fn truncate(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncates_at_char_boundary() {
        assert_eq!(truncate("/echo", 1024), "/echo");
        assert_eq!(truncate(&"a".repeat(2000), 1024).len(), 1024);
        assert_eq!(truncate(&"\u{20ac}".repeat(1000), 1024).len(), 1023);
    }
}
