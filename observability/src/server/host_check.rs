//! Check of the host of requests, against DNS rebinding.
//!
//! A page of any site can make its own host name resolve to the address of a service, and its scripts may
//! then read what the service responds. The browser still sends the name of the site as the host.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::IntoResponse;
use http::StatusCode;
use http::header::HOST;
use http::uri::Authority;

/// Makes `router` respond 403 to a request whose host is neither in `allowed` nor a name or an address of the
/// loopback interface. Without allowed hosts, every host is allowed.
pub(super) fn check_hosts(router: Router, allowed: &[String]) -> Router {
    if allowed.is_empty() {
        return router;
    }
    let allowed: Arc<[String]> = allowed.into();
    router.layer(from_fn(move |request: Request, next: Next| {
        let is_allowed = has_allowed_host(&request, &allowed);
        async move {
            if is_allowed {
                return next.run(request).await;
            }
            let text = "the host of the request is neither localhost nor in ALLOWED_HOSTS\n";
            (StatusCode::FORBIDDEN, text).into_response()
        }
    }))
}

/// Returns `true` also for a request without a host, which is not one of a browser.
fn has_allowed_host(request: &Request, allowed: &[String]) -> bool {
    let header = || request.headers().get(HOST)?.to_str().ok()?.parse().ok();
    match request.uri().authority().cloned().or_else(header) {
        Some(authority) => is_allowed(&authority, allowed),
        None => !request.headers().contains_key(HOST),
    }
}

/// Loopback names are `localhost` and those below it (RFC 6761, section 6.3).
fn is_allowed(authority: &Authority, allowed: &[String]) -> bool {
    let host = authority.host().trim_matches(['[', ']']).trim_end_matches('.').to_ascii_lowercase();
    host == "localhost"
        || host.ends_with(".localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
        || allowed.contains(&host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_and_listed_hosts_are_allowed() {
        let allowed = ["lab.example".to_owned(), "192.0.2.1".to_owned()];
        for (host, expected) in [
            ("localhost", true),
            ("LocalHost.:8080", true),
            ("a.localhost:8080", true),
            ("127.0.0.1:8080", true),
            ("[::1]:8080", true),
            ("LAB.example:8080", true),
            ("192.0.2.1", true),
            ("sub.lab.example", false),
            ("192.0.2.2", false),
            ("rebound.test:8080", false),
            ("localhost.rebound.test", false),
            ("notlocalhost", false),
            ("[2001:db8::1]", false),
        ] {
            assert_eq!(is_allowed(&host.parse().unwrap(), &allowed), expected, "{host}");
        }
    }
}
