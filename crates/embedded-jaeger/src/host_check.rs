//! Protection against DNS rebinding.
//!
//! A page of any site can make its own host name resolve to a loopback address, and its scripts may then
//! read what listens there. The browser still sends the name of the site as the host.

use std::net::IpAddr;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::HOST;
use http::uri::Authority;

/// Rejects a request whose host is no name or address of the loopback interface. A request without a host
/// is not one of a browser.
pub(crate) async fn require_loopback_host(request: Request, next: Next) -> Response {
    let header = || request.headers().get(HOST)?.to_str().ok()?.parse().ok();
    let authority = request.uri().authority().cloned().or_else(header);
    let is_rejected = match &authority {
        Some(authority) => !is_loopback(authority),
        None => request.headers().contains_key(HOST),
    };
    if is_rejected {
        let text =
            "the host of the request is not localhost; listen on another address to serve it\n";
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    next.run(request).await
}

/// Returns `true` for a loopback address, and for `localhost` and names below it (RFC 6761, section 6.3).
fn is_loopback(authority: &Authority) -> bool {
    let host = authority.host().trim_matches(['[', ']']).trim_end_matches('.').to_ascii_lowercase();
    host == "localhost"
        || host.ends_with(".localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_hosts_are_recognized() {
        for (host, expected) in [
            ("localhost", true),
            ("LocalHost.:16686", true),
            ("jaeger.localhost:16686", true),
            ("127.0.0.1:4318", true),
            ("127.1.2.3", true),
            ("[::1]:16686", true),
            ("evil.test:16686", false),
            ("localhost.evil.test", false),
            ("notlocalhost", false),
            ("192.0.2.1:16686", false),
            ("[2001:db8::1]", false),
            ("127.0.0.1.evil.test", false),
        ] {
            assert_eq!(is_loopback(&host.parse().unwrap()), expected, "{host}");
        }
    }
}
