//! Lists of `key=value` pairs, such as `OTEL_RESOURCE_ATTRIBUTES`.
//!
//! Keys and values are percent-encoded, as in W3C Baggage, because they cannot contain `,` and `=` otherwise.
//! Source: OpenTelemetry specification, "Resource SDK", section "Specifying resource information via an
//! environment variable", and "OpenTelemetry Protocol Exporter", section "Specifying headers via environment
//! variables".

use percent_encoding::percent_decode_str;

/// Returns each pair of a list, or `None` in its place if it is malformed. Empty members are ignored.
pub(super) fn parse_pairs(list: &str) -> impl Iterator<Item = Option<(String, String)>> {
    list.split(',').map(str::trim).filter(|pair| !pair.is_empty()).map(|pair| {
        let (key, value) = pair.split_once('=')?;
        let key = decode(key.trim())?;
        (!key.is_empty()).then_some((key, decode(value.trim())?))
    })
}

fn decode(text: &str) -> Option<String> {
    let is_escape =
        |rest: &str| rest.len() >= 2 && rest.bytes().take(2).all(|digit| digit.is_ascii_hexdigit());
    if !text.split('%').skip(1).all(is_escape) {
        return None;
    }
    Some(percent_decode_str(text).decode_utf8().ok()?.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_pair_is_none() {
        for (list, expected) in [
            ("k=a%20b%2Cc", &[Some(("k", "a b,c"))][..]),
            (" a = 1 , b=x=y,", &[Some(("a", "1")), Some(("b", "x=y"))]),
            ("a%3Db=,é=%C3%A9", &[Some(("a=b", "")), Some(("é", "é"))]),
            ("bad,team=x", &[None, Some(("team", "x"))]),
            ("=x", &[None]),
            ("a=%ff", &[None]),
            ("a=5%", &[None]),
            ("a=%zz", &[None]),
            ("", &[]),
        ] {
            let pairs: Vec<_> = parse_pairs(list).collect();
            let pairs: Vec<_> = pairs
                .iter()
                .map(|pair| pair.as_ref().map(|(key, value)| (key.as_str(), value.as_str())))
                .collect();
            assert_eq!(pairs, expected, "{list}");
        }
    }
}
