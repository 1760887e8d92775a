//! HTTP client of the lab and its base URLs.

use std::time::Duration;

use observability::Error;
use reqwest::{Client, ClientBuilder, Url};

/// Idle timeout of pooled connections. Shorter than the default of the services' `IDLE_TIMEOUT_MS`, so
/// that a reused connection is not one that the server is about to close.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// Builds the client of [`client_builder`].
pub(crate) fn build_client(timeout: Duration) -> Result<Client, Error> {
    Ok(client_builder(timeout).build()?)
}

/// Configures a client without proxies and redirects, so that each response is that of the target.
pub(crate) fn client_builder(timeout: Duration) -> ClientBuilder {
    Client::builder()
        .timeout(timeout)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .pool_idle_timeout(POOL_IDLE_TIMEOUT)
        .user_agent(concat!("lab/", env!("CARGO_PKG_VERSION")))
}

/// Appends a path segment to a base URL.
pub(crate) fn endpoint(base: &Url, segment: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}/{segment}", base.path().trim_end_matches('/')));
    url.set_query(None);
    url.set_fragment(None);
    url
}

/// Formats a URL without its credentials.
pub(crate) fn redacted(url: &Url) -> String {
    let mut url = url.clone();
    // Fails only for URLs that cannot have credentials.
    let _ = url.set_username("").and_then(|()| url.set_password(None));
    url.to_string().trim_end_matches('/').to_owned()
}

/// Parses a base URL.
pub(crate) fn parse_url(text: &str) -> Result<Url, &'static str> {
    match Url::parse(text) {
        Ok(url) if url.scheme() == "http" && url.has_host() => Ok(url),
        Ok(url) if url.scheme() == "https" => Err("https is not supported, only http"),
        _ => Err("expected a URL such as http://127.0.0.1:8081"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_url_keeps_path_redacts_credentials() {
        let base = Url::parse("http://user:pw@b:1/prefix/?x#y").unwrap();
        assert_eq!(endpoint(&base, "call-echo").as_str(), "http://user:pw@b:1/prefix/call-echo");
        assert_eq!(redacted(&endpoint(&base, "call-echo")), "http://b:1/prefix/call-echo");
        assert_eq!(redacted(&Url::parse("http://b:1").unwrap()), "http://b:1");
    }
}
