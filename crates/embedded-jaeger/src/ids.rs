//! Trace and span ids, written as lower-case hex.

use std::fmt;

use serde::{Serialize, Serializer};

/// A W3C trace id, displayed as 32 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TraceId(pub(crate) [u8; 16]);

/// A W3C span id, displayed as 16 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SpanId(pub(crate) [u8; 8]);

impl TraceId {
    /// Returns `None` if OTLP defines `bytes` as invalid: not 16 bytes, or all zero.
    pub(crate) fn from_otlp(bytes: &[u8]) -> Option<Self> {
        let id: [u8; 16] = bytes.try_into().ok()?;
        (id != [0; 16]).then_some(Self(id))
    }

    /// Parses up to 32 hex digits. Like Jaeger, pads fewer digits with zeros on the left.
    pub(crate) fn from_hex(digits: &str) -> Option<Self> {
        let hex = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        let id = u128::from_str_radix(digits, 16).ok().filter(|_| hex && digits.len() <= 32)?;
        Some(Self(id.to_be_bytes()))
    }
}

impl SpanId {
    /// Parent id of a root span.
    pub(crate) const NONE: Self = Self([0; 8]);

    /// Returns `None` if OTLP defines `bytes` as invalid: not 8 bytes, or all zero.
    pub(crate) fn from_otlp(bytes: &[u8]) -> Option<Self> {
        let id: [u8; 8] = bytes.try_into().ok()?;
        Some(Self(id)).filter(|id| *id != Self::NONE)
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl Serialize for TraceId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for SpanId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_id_is_left_padded() {
        let short = TraceId::from_hex("aB").map(|id| id.to_string());
        assert_eq!(short.as_deref(), Some("000000000000000000000000000000ab"));
        for invalid in ["", "+1", "xyz", "-1", " 1", "é", &"a".repeat(33)] {
            assert_eq!(TraceId::from_hex(invalid), None, "{invalid:?}");
        }
    }

    #[test]
    fn otlp_id_rejects_invalid_bytes() {
        assert!(TraceId::from_otlp(&[1; 16]).is_some());
        for invalid in [&[0; 16][..], &[], &[1; 15], &[1; 17]] {
            assert_eq!(TraceId::from_otlp(invalid), None);
        }
        assert!(SpanId::from_otlp(&[1; 8]).is_some());
        for invalid in [&[0; 8][..], &[], &[1; 7], &[1; 9]] {
            assert_eq!(SpanId::from_otlp(invalid), None);
        }
    }
}
