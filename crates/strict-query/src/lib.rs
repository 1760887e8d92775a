//! A query extractor that refuses what it cannot decode.
//!
//! [`axum::extract::Query`] follows the URL standard: a broken percent-encoding stays as it is, and
//! bytes that are no UTF-8 become U+FFFD. An echo that answers something else than it was sent is
//! worse than a clear 400, so [`StrictQuery`] looks at the raw query first.

use axum::Json;
use axum::extract::{FromRequestParts, Query};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;

/// The query, decoded without loss.
#[derive(Debug, Clone, Copy)]
pub struct StrictQuery<T>(pub T);

/// The query cannot be decoded: 400 `{"error":"Invalid query string"}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidQuery;

impl IntoResponse for InvalidQuery {
    fn into_response(self) -> Response {
        let body = serde_json::json!({"error": "Invalid query string"});
        (StatusCode::BAD_REQUEST, Json(body)).into_response()
    }
}

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for StrictQuery<T> {
    type Rejection = InvalidQuery;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, InvalidQuery> {
        if !parts.uri.query().is_none_or(is_decodable) {
            return Err(InvalidQuery);
        }
        match Query::try_from_uri(&parts.uri) {
            Ok(Query(value)) => Ok(Self(value)),
            Err(_) => Err(InvalidQuery),
        }
    }
}

/// Whether each `%` stands before two hex digits and each name and value is UTF-8.
fn is_decodable(query: &str) -> bool {
    // Most queries have nothing to decode.
    if query.is_ascii() && !query.contains('%') {
        return true;
    }
    query.split(['&', '=']).all(|part| {
        let mut bytes = part.bytes();
        let mut decoded = Vec::with_capacity(part.len());
        while let Some(byte) = bytes.next() {
            if byte != b'%' {
                decoded.push(byte);
                continue;
            }
            match (bytes.next().and_then(hex), bytes.next().and_then(hex)) {
                (Some(high), Some(low)) => decoded.push(high << 4 | low),
                _ => return false,
            }
        }
        std::str::from_utf8(&decoded).is_ok()
    })
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_lossless_queries() {
        for query in
            ["", "msg=hello", "msg=a+b%20c", "msg=%C3%A9%F0%9F%A6%80", "msg=%EF%BF%BD", "a&b=&=c"]
        {
            assert!(is_decodable(query), "{query}");
        }
    }

    #[test]
    fn rejects_lossy_queries() {
        for query in [
            "msg=%",
            "msg=%4",
            "msg=%zz",
            "msg=%ff",
            "msg=%c3",
            "msg=%c3&x=%a9",
            "%ff=1",
            "msg=%+1",
        ] {
            assert!(!is_decodable(query), "{query}");
        }
    }
}
