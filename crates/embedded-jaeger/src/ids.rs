//! Trace and span ids, written as lower-case hex.

use std::fmt;

use serde::{Serialize, Serializer};

/// An id of `N` bytes, displayed as `2 * N` hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Id<const N: usize>([u8; N]);

/// A W3C trace id.
pub(crate) type TraceId = Id<16>;

/// A W3C span id.
pub(crate) type SpanId = Id<8>;

impl<const N: usize> Id<N> {
    /// Invalid id. As a parent id, it marks a root span.
    pub(crate) const ZERO: Self = Self([0; N]);

    /// Returns `None` if OTLP defines `bytes` as invalid: not `N` bytes, or all zero.
    pub(crate) fn from_otlp(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self).filter(|id| *id != Self::ZERO)
    }
}

impl<const N: usize> Id<N> {
    /// Returns the bytes of OTLP, which are empty for [`ZERO`](Self::ZERO).
    pub(crate) fn to_otlp(self) -> Vec<u8> {
        if self == Self::ZERO { Vec::new() } else { self.0.to_vec() }
    }
}

impl TraceId {
    /// Parses up to 32 hex digits. Like Jaeger, pads fewer digits with zeros on the left.
    pub(crate) fn from_hex(digits: &str) -> Option<Self> {
        let is_hex = digits.len() <= 32 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        let id = u128::from_str_radix(digits, 16).ok().filter(|_| is_hex)?;
        Some(Self(id.to_be_bytes()))
    }
}

impl<const N: usize> fmt::Display for Id<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl<const N: usize> Serialize for Id<N> {
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
