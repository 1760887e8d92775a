//! OpenMetrics 1.0: content negotiation, and the rendered page with exemplars.
//!
//! Source: OpenMetrics 1.0, sections "Text format" and "Exemplars".

use super::exemplar::Exemplars;

/// Media type of the Prometheus text format, version 0.0.4.
pub(crate) const TEXT_CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Media type of OpenMetrics.
pub(crate) const OPENMETRICS_CONTENT_TYPE: &str =
    "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Returns `true` if the `Accept` header lists OpenMetrics with at least the weight of `text/plain`. A
/// wildcard selects the text format.
pub(crate) fn prefers_openmetrics(accept: &str) -> bool {
    let weight = accept_weight(accept, "application/openmetrics-text");
    weight > 0.0 && weight >= accept_weight(accept, "text/plain")
}

/// Returns the weight of `name` in an `Accept` or `Accept-Encoding` header (RFC 9110, section 12.4.2), or
/// 0 if it is not listed.
pub(crate) fn accept_weight(list: &str, name: &str) -> f32 {
    let weights = list.split(',').filter_map(|item| {
        let mut parameters = item.split(';').map(str::trim);
        let named = parameters.next().is_some_and(|first| first.eq_ignore_ascii_case(name));
        let weight = parameters
            .filter_map(|parameter| parameter.strip_prefix("q="))
            .find_map(|weight| weight.trim().parse().ok());
        named.then_some(weight.unwrap_or(1.0))
    });
    weights.fold(0.0, f32::max)
}

/// Converts a page in the text format: removes `_total` from the metadata of counters, adds units and
/// exemplars, writes bounds as floats, and adds the end marker.
pub(super) fn render(text_page: &str, exemplars: &Exemplars) -> String {
    let mut page = String::with_capacity(text_page.len() + text_page.len() / 4);
    for line in text_page.lines().filter(|line| !line.is_empty()) {
        if let Some(rest) = line.strip_prefix("# ") {
            metadata(&mut page, rest);
        } else {
            sample(&mut page, line, exemplars);
        }
        page.push('\n');
    }
    page.push_str("# EOF\n");
    page
}

/// Converts `HELP name text` or `TYPE name type`.
fn metadata(page: &mut String, line: &str) {
    let mut words = line.splitn(3, ' ');
    let (keyword, name, rest) = (words.next(), words.next(), words.next());
    let (Some(keyword), Some(name), Some(rest)) = (keyword, name, rest) else { return };
    let family = name.strip_suffix("_total").unwrap_or(name);
    page.extend(["# ", keyword, " ", family, " ", rest]);
    if keyword == "TYPE" {
        for unit in ["seconds", "bytes"] {
            if family.strip_suffix(unit).is_some_and(|stem| stem.ends_with('_')) {
                page.extend(["\n# UNIT ", family, " ", unit]);
            }
        }
    }
}

/// Converts `name{labels} value`.
fn sample(page: &mut String, line: &str, exemplars: &Exemplars) {
    let Some((series, value)) = line.rsplit_once(' ') else { return };
    let is_bucket = series.split('{').next().is_some_and(|name| name.ends_with("_bucket"));
    let labels = series.strip_suffix("\"}").filter(|_| is_bucket);
    let Some((series, le)) = labels.and_then(|labels| labels.rsplit_once("le=\"")) else {
        page.push_str(line);
        page.push_str(&exemplars.lookup(series.strip_suffix('}').unwrap_or(series), None));
        return;
    };
    let bound = le.parse().unwrap_or(f64::INFINITY);
    let le = if bound.is_finite() { format!("{bound:?}") } else { "+Inf".to_owned() };
    page.extend([series, "le=\"", &le, "\"} ", value]);
    page.push_str(&exemplars.lookup(series.trim_end_matches(','), Some(bound)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openmetrics_requires_explicit_accept() {
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
            application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;q=0.4,\
            text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        assert!(prefers_openmetrics(prometheus));
        assert!(prefers_openmetrics("application/openmetrics-text"));
        for accept in [
            "",
            "*/*",
            "text/plain",
            "text/html, */*;q=0.1",
            "application/openmetrics-text;q=0.1, text/plain",
            "application/openmetrics-text;q=0",
        ] {
            assert!(!prefers_openmetrics(accept), "{accept}");
        }
    }

    #[test]
    fn page_has_units_floats_and_end() {
        let text_page = "# HELP a_seconds How long.\n# TYPE a_seconds histogram\n\
            a_seconds_bucket{x=\"1 le=\",le=\"1\"} 2\na_seconds_bucket{x=\"1 le=\",le=\"+Inf\"} 2\n\n\
            # HELP b_total How often.\n# TYPE b_total counter\nb_total{y=\"z\"} 3\n\n";
        let openmetrics = "# HELP a_seconds How long.\n# TYPE a_seconds histogram\n# UNIT a_seconds seconds\n\
            a_seconds_bucket{x=\"1 le=\",le=\"1.0\"} 2\na_seconds_bucket{x=\"1 le=\",le=\"+Inf\"} 2\n\
            # HELP b How often.\n# TYPE b counter\nb_total{y=\"z\"} 3\n# EOF\n";
        assert_eq!(render(text_page, &Exemplars::default()), openmetrics);
    }
}
