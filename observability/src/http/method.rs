use std::str::FromStr;

use http::Method;

/// Request method of a closed set, so that it can be a label.
///
/// By default, the set has the methods of RFC 9110 section 9, PATCH (RFC 5789) and QUERY. Any other is
/// `_OTHER`, as the semantic conventions for `http.request.method` require.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct KnownMethod {
    index: u8,
    name: &'static str,
}

const DEFAULT: [&str; 10] =
    ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "QUERY", "TRACE", "CONNECT"];

/// Maximum number of methods that a setting adds.
const MAX_CUSTOM: usize = 16;

impl KnownMethod {
    /// Number of methods that a set can have. [`index`](Self::index) is below it.
    pub(crate) const COUNT: usize = 1 + DEFAULT.len() + MAX_CUSTOM;

    pub(crate) const OTHER: Self = Self { index: 0, name: "_OTHER" };

    pub(crate) fn as_str(self) -> &'static str {
        self.name
    }

    /// Returns the span name of a request without a route. The semantic conventions require `HTTP` for
    /// unknown methods.
    pub(crate) fn span_name(self) -> &'static str {
        if self == Self::OTHER { "HTTP" } else { self.name }
    }

    pub(crate) fn index(self) -> usize {
        usize::from(self.index)
    }

    fn new(index: usize, name: &'static str) -> Self {
        Self { index: u8::try_from(index).unwrap_or_default(), name }
    }
}

/// Set of known methods, the value of `OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS`.
#[derive(Debug, Clone)]
pub(crate) struct KnownMethods(Vec<KnownMethod>);

impl KnownMethods {
    pub(crate) fn classify(&self, method: &Method) -> KnownMethod {
        let known = self.0.iter().find(|known| known.name == method.as_str());
        known.copied().unwrap_or(KnownMethod::OTHER)
    }
}

impl Default for KnownMethods {
    fn default() -> Self {
        let methods = DEFAULT.iter().enumerate();
        Self(methods.map(|(index, name)| KnownMethod::new(index + 1, name)).collect())
    }
}

impl FromStr for KnownMethods {
    type Err = &'static str;

    /// Parses a list such as `GET,PURGE`. It replaces the default set, and its case matters.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut methods = Vec::new();
        let mut custom = 0;
        for name in text.split(',').map(str::trim) {
            if Method::from_bytes(name.as_bytes()).is_err() {
                return Err("expected a comma-separated list of methods");
            }
            let index = DEFAULT.iter().position(|known| *known == name).unwrap_or_else(|| {
                custom += 1;
                DEFAULT.len() + custom - 1
            });
            if custom > MAX_CUSTOM {
                return Err("expected at most 16 methods that are not standard");
            }
            methods.push(KnownMethod::new(index + 1, name.to_owned().leak()));
        }
        Ok(Self(methods))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classify(methods: &KnownMethods, method: &str) -> &'static str {
        methods.classify(&Method::from_bytes(method.as_bytes()).unwrap()).as_str()
    }

    #[test]
    fn unknown_method_is_other() {
        let methods = KnownMethods::default();
        for method in DEFAULT {
            assert_eq!(classify(&methods, method), method);
        }
        for method in ["get", "BREW", "PURGE"] {
            assert_eq!(classify(&methods, method), "_OTHER");
        }
    }

    #[test]
    fn list_replaces_default_methods() {
        let methods: KnownMethods = "GET, PURGE".parse().unwrap();
        for (method, expected) in [("GET", "GET"), ("PURGE", "PURGE"), ("POST", "_OTHER")] {
            assert_eq!(classify(&methods, method), expected);
        }
        let many = (0..17).map(|index| format!("M{index}")).collect::<Vec<_>>().join(",");
        for malformed in ["GET,,PUT", "GET POST", "GE\"T", &many] {
            assert!(malformed.parse::<KnownMethods>().is_err(), "{malformed}");
        }
    }
}
