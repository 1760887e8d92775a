//! Weights of an `Accept` or `Accept-Encoding` header (RFC 9110, sections 12.4.2 and 12.5).

/// Weight of an alternative in thousandths, from the most specific range that matches it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weight {
    /// No range matches.
    Unlisted,
    /// A range with a wildcard matches.
    Wildcard(u16),
    /// A range without a wildcard matches.
    Exact(u16),
}

impl Weight {
    /// Returns the weight of `name`, a media type or a coding, in the values of a header.
    pub(crate) fn of<'a>(name: &str, values: impl IntoIterator<Item = &'a str>) -> Self {
        let mut best = (0, Self::Unlisted);
        for range in values.into_iter().flat_map(|value| value.split(',')) {
            let mut parameters = range.split(';').map(str::trim);
            let range = parameters.next().unwrap_or_default();
            let precision = precision(range, name);
            let weight = parameters.find_map(|parameter| {
                let (key, value) = parameter.split_once('=')?;
                key.trim().eq_ignore_ascii_case("q").then(|| parse_weight(value.trim()))
            });
            // A malformed weight makes its range invalid.
            let Some(weight) = weight.unwrap_or(Some(1000)) else { continue };
            let found = if precision == 3 { Self::Exact(weight) } else { Self::Wildcard(weight) };
            let is_better = precision > best.0
                || (precision == best.0 && precision > 0 && weight > best.1.value());
            if is_better {
                best = (precision, found);
            }
        }
        best.1
    }

    /// Returns the weight, 0 if no range matches.
    pub(crate) fn value(self) -> u16 {
        match self {
            Self::Unlisted => 0,
            Self::Wildcard(weight) | Self::Exact(weight) => weight,
        }
    }

    /// Returns `true` if a range with the weight 0 matches.
    pub(crate) fn is_excluded(self) -> bool {
        matches!(self, Self::Wildcard(0) | Self::Exact(0))
    }
}

/// Returns 3 if `range` is `name`, 2 for `type/*`, 1 for `*/*` and `*`, and 0 if it does not match.
fn precision(range: &str, name: &str) -> u8 {
    let is_type =
        |kind: &str| name.split_once('/').is_some_and(|(own, _)| own.eq_ignore_ascii_case(kind));
    if range.eq_ignore_ascii_case(name) {
        3
    } else if range == "*/*" || range == "*" {
        1
    } else if range.strip_suffix("/*").is_some_and(is_type) {
        2
    } else {
        0
    }
}

/// Parses a weight: 0 to 1 with at most three decimals.
fn parse_weight(text: &str) -> Option<u16> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    if decimals.len() > 3 || !decimals.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let thousandths = format!("{decimals:0<3}").parse().ok()?;
    match (whole, thousandths) {
        ("0", thousandths) => Some(thousandths),
        ("1", 0) => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_specific_range_decides() {
        for (values, expected) in [
            (vec!["text/plain;Q=0, */*"], Weight::Exact(0)),
            (vec!["text/plain;q=0.1"], Weight::Exact(100)),
            (vec!["TEXT/Plain ; q=0.25 , text/*;q=1"], Weight::Exact(250)),
            (vec!["text/*;q=0.5", "*/*;q=0.8"], Weight::Wildcard(500)),
            (vec!["*/*;q=0.8"], Weight::Wildcard(800)),
            (vec!["application/json", ""], Weight::Unlisted),
            (vec!["text/plain;q=2", "text/plain;q=0.5"], Weight::Exact(500)),
            (vec!["text/plain;q=x;charset=utf-8"], Weight::Unlisted),
            (
                vec!["text/plain;version=0.0.4;q=0.3", "text/plain;version=1.0.0;q=0.4"],
                Weight::Exact(400),
            ),
        ] {
            assert_eq!(Weight::of("text/plain", values.iter().copied()), expected, "{values:?}");
        }
        assert_eq!(Weight::of("gzip", ["br, *;q=0"]), Weight::Wildcard(0));
    }
}
