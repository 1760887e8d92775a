//! Status of a gRPC call.

use http::HeaderMap;

/// Status of a gRPC call, from the trailers or from the headers of a response without a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GrpcStatus(u8);

impl GrpcStatus {
    /// Names in the order of the codes. Source: gRPC, "Status codes and their use in gRPC".
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];

    pub(crate) fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let code: u8 = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
        // A code that the specification does not define is UNKNOWN.
        Some(if usize::from(code) < Self::NAMES.len() { Self(code) } else { Self(2) })
    }

    /// Returns the name of the status, such as `UNAVAILABLE`.
    pub fn name(self) -> &'static str {
        Self::NAMES[usize::from(self.0)]
    }

    /// Returns `true` for the codes with which services reject a call before they look its method up:
    /// PERMISSION_DENIED, RESOURCE_EXHAUSTED, UNIMPLEMENTED and UNAUTHENTICATED.
    pub(crate) fn is_rejection(self) -> bool {
        matches!(self.0, 7 | 8 | 12 | 16)
    }

    pub(crate) fn is_ok(self) -> bool {
        self.0 == 0
    }

    /// Returns `true` for the codes that are errors of the server by the semantic conventions for gRPC:
    /// UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE and DATA_LOSS.
    pub(crate) fn is_server_error(self) -> bool {
        matches!(self.0, 2 | 4 | 12..=15)
    }
}
