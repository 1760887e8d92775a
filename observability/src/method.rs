//! The request method as a closed set: what HTTP does not define is `_OTHER`.

const NAMES: [&str; Method::COUNT] =
    ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "CONNECT", "_OTHER"];

/// A method of RFC 9110 section 9, or PATCH (RFC 5789), or anything else as `_OTHER`, as the
/// semantic conventions for `http.request.method` want it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Method(usize);

impl Method {
    /// How many there are.
    pub(crate) const COUNT: usize = 10;
    #[cfg(test)]
    pub(crate) const GET: Self = Self(0);
    const OTHER: Self = Self(Self::COUNT - 1);

    pub(crate) fn as_str(self) -> &'static str {
        NAMES[self.0]
    }

    pub(crate) fn is_other(self) -> bool {
        self == Self::OTHER
    }

    /// What a span is called by it: the semantic conventions want `HTTP` for any other method.
    pub(crate) fn span_name(self) -> &'static str {
        if self.is_other() { "HTTP" } else { self.as_str() }
    }

    /// Below [`COUNT`](Self::COUNT).
    pub(crate) fn index(self) -> usize {
        self.0
    }
}

impl From<&http::Method> for Method {
    fn from(method: &http::Method) -> Self {
        let method = method.as_str();
        NAMES.iter().position(|known| *known == method).map_or(Self::OTHER, Self)
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
