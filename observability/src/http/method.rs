/// Request method as a closed set, so that it can be a label.
///
/// The methods of RFC 9110 section 9, PATCH (RFC 5789) and QUERY. Any other is `_OTHER`, as the semantic
/// conventions for `http.request.method` require.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum KnownMethod {
    Get,
    Post,
    Put,
    Delete,
    Head,
    Options,
    Patch,
    Query,
    Trace,
    Connect,
    Other,
}

impl KnownMethod {
    /// Number of variants. [`index`](Self::index) is below it.
    pub(crate) const COUNT: usize = Self::Other as usize + 1;

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Head => "HEAD",
            Self::Options => "OPTIONS",
            Self::Patch => "PATCH",
            Self::Query => "QUERY",
            Self::Trace => "TRACE",
            Self::Connect => "CONNECT",
            Self::Other => "_OTHER",
        }
    }

    /// Returns the span name of a request without a route. The semantic conventions require `HTTP` for
    /// unknown methods.
    pub(crate) fn span_name(self) -> &'static str {
        match self {
            Self::Other => "HTTP",
            _ => self.as_str(),
        }
    }

    pub(crate) fn index(self) -> usize {
        self as usize
    }
}

impl From<&http::Method> for KnownMethod {
    fn from(method: &http::Method) -> Self {
        match method.as_str() {
            "GET" => Self::Get,
            "POST" => Self::Post,
            "PUT" => Self::Put,
            "DELETE" => Self::Delete,
            "HEAD" => Self::Head,
            "OPTIONS" => Self::Options,
            "PATCH" => Self::Patch,
            "QUERY" => Self::Query,
            "TRACE" => Self::Trace,
            "CONNECT" => Self::Connect,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_method_is_other() {
        for (method, expected) in [
            ("GET", "GET"),
            ("PATCH", "PATCH"),
            ("QUERY", "QUERY"),
            ("get", "_OTHER"),
            ("BREW", "_OTHER"),
        ] {
            let method = http::Method::from_bytes(method.as_bytes()).unwrap();
            assert_eq!(KnownMethod::from(&method).as_str(), expected);
        }
    }
}
