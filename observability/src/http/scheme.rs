/// Scheme of a request as a closed set, so that it can be a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) enum UrlScheme {
    #[default]
    Http,
    Https,
}

impl UrlScheme {
    /// Number of variants.
    pub(crate) const COUNT: usize = Self::Https as usize + 1;

    /// Parses a scheme, in any case. Returns `None` for any other than `http` and `https`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::Http, Self::Https]
            .into_iter()
            .find(|scheme| text.eq_ignore_ascii_case(scheme.as_str()))
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    pub(crate) fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}
