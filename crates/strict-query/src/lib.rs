//! A query extractor for axum that rejects malformed percent-encoding and invalid UTF-8.
//!
//! [`axum::extract::Query`] follows the URL Standard: it keeps a malformed percent-encoding as it is
//! and replaces invalid UTF-8 by U+FFFD. A service that echoes its input would then respond with
//! something that the client did not send. [`StrictQuery`] rejects such a query with 400.
//!
//! ```
//! use axum::{Router, routing::get};
//! use strict_query::StrictQuery;
//!
//! #[derive(serde::Deserialize)]
//! struct EchoParams {
//!     msg: String,
//! }
//!
//! async fn echo(StrictQuery(params): StrictQuery<EchoParams>) -> String {
//!     params.msg
//! }
//!
//! let router: Router = Router::new().route("/echo", get(echo));
//! ```

use axum::Json;
use axum::extract::{FromRequestParts, Query};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;

/// Extractor for a query string that decodes without loss.
#[derive(Debug, Clone, Copy)]
pub struct StrictQuery<T>(pub T);

/// Rejection type for [`StrictQuery`]: 400 with the body `{"error":"Invalid query string"}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Invalid query string")]
#[non_exhaustive]
pub struct InvalidQuery;

impl IntoResponse for InvalidQuery {
    fn into_response(self) -> Response {
        let body = serde_json::json!({"error": self.to_string()});
        (StatusCode::BAD_REQUEST, Json(body)).into_response()
    }
}

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for StrictQuery<T> {
    type Rejection = InvalidQuery;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, InvalidQuery> {
        if !parts.uri.query().is_none_or(is_decodable) {
            return Err(InvalidQuery);
        }
        Query::try_from_uri(&parts.uri).map(|Query(value)| Self(value)).map_err(|_| InvalidQuery)
    }
}

/// Returns `true` if each `%` precedes two hex digits and each name and value is valid UTF-8.
fn is_decodable(query: &str) -> bool {
    let is_hex_pair = |text: &str| {
        text.as_bytes().get(..2).is_some_and(|pair| pair.iter().all(u8::is_ascii_hexdigit))
    };
    query.split('%').skip(1).all(is_hex_pair) && percent_decode_str(query).decode_utf8().is_ok()
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
