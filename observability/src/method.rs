//! The request method as a closed set: what HTTP does not define is `_OTHER`.

/// A method of RFC 9110 section 9, or PATCH (RFC 5789), or anything else as `_OTHER`, as the
/// semantic conventions for `http.request.method` want it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Method(&'static str);

impl Method {
    #[cfg(test)]
    pub(crate) const GET: Self = Self("GET");
    const OTHER: Self = Self("_OTHER");

    pub(crate) fn as_str(self) -> &'static str {
        self.0
    }

    pub(crate) fn is_other(self) -> bool {
        self == Self::OTHER
    }
}

impl From<&http::Method> for Method {
    fn from(method: &http::Method) -> Self {
        const KNOWN: [&str; 9] =
            ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "CONNECT"];
        KNOWN.into_iter().find(|known| *known == method.as_str()).map_or(Self::OTHER, Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_http_does_not_define_is_other() {
        for (method, expected) in
            [("GET", "GET"), ("PATCH", "PATCH"), ("get", "_OTHER"), ("BREW", "_OTHER")]
        {
            let method = http::Method::from_bytes(method.as_bytes()).unwrap();
            assert_eq!(Method::from(&method).as_str(), expected);
        }
    }
}
