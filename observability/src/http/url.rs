use reqwest::Url;
use url::Position;

/// Returns scheme, host, port and path of a URL, without credentials, query and fragment.
pub(crate) fn redact_url(url: &Url) -> String {
    // Most URLs have a port and no credentials. The result is then a prefix of the URL.
    if url.port().is_some() && url.username().is_empty() && url.password().is_none() {
        return url[..Position::AfterPath].to_owned();
    }
    let host = url.host_str().unwrap_or_default();
    match url.port_or_known_default() {
        Some(port) => format!("{}://{host}:{port}{}", url.scheme(), url.path()),
        None => format!("{}://{host}{}", url.scheme(), url.path()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redacts_credentials_and_query() {
        for (url, redacted) in [
            ("http://user:pw@a.test/echo?msg=1#f", "http://a.test:80/echo"),
            ("http://[::1]:8080/", "http://[::1]:8080/"),
        ] {
            assert_eq!(redact_url(&url.parse().unwrap()), redacted);
        }
    }
}
