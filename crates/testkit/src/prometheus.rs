//! A page of metrics in Prometheus' text format, read line by line.

use std::collections::{BTreeMap, BTreeSet};

/// All that a scrape showed.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// The type of each metric that says one, by name.
    pub types: BTreeMap<String, String>,
    /// The samples in their order.
    pub samples: Vec<Sample>,
}

/// One line of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The name, with its suffix such as `_bucket`.
    pub name: String,
    /// The labels.
    pub labels: BTreeMap<String, String>,
    /// The value.
    pub value: f64,
}

impl Sample {
    fn has(&self, name: &str, labels: &[(&str, &str)]) -> bool {
        self.name == name
            && labels
                .iter()
                .all(|(label, value)| self.labels.get(*label).is_some_and(|v| v == value))
    }
}

impl Page {
    /// Reads a page.
    ///
    /// # Panics
    /// Where a line is no legal one, or a series is there twice.
    pub fn parse(text: &str) -> Self {
        let mut series = BTreeSet::new();
        let mut page = Self { types: BTreeMap::new(), samples: Vec::new() };
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(comment) = line.strip_prefix("# ") {
                if let Some((name, kind)) =
                    comment.strip_prefix("TYPE ").and_then(|rest| rest.split_once(' '))
                {
                    let twice = page.types.insert(name.to_owned(), kind.to_owned());
                    assert_eq!(twice, None, "two types: {line}");
                }
                continue;
            }
            let sample = sample(line).unwrap_or_else(|| panic!("not a sample: {line:?}"));
            let is_new = series.insert((sample.name.clone(), sample.labels.clone()));
            assert!(is_new, "a series twice: {line}");
            page.samples.push(sample);
        }
        page
    }

    /// The value of the one series of this name that has these labels, among others maybe; `None`
    /// where there is no such series.
    ///
    /// # Panics
    /// Where there are several.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut found = self.samples.iter().filter(|sample| sample.has(name, labels));
        let first = found.next()?;
        let second = found.next();
        assert!(second.is_none(), "{name} {labels:?} is both {first:?} and {second:?}");
        Some(first.value)
    }

    /// The sum over all series of this name that have these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.named(name).filter(|sample| sample.has(name, labels)).map(|sample| sample.value).sum()
    }

    /// The samples of this name.
    pub fn named(&self, name: &str) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(move |sample| sample.name == name)
    }
}

fn sample(line: &str) -> Option<Sample> {
    let name_end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(name_end);
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':');
    if name.is_empty() || !name.chars().all(is_name) {
        return None;
    }
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (label, after) = rest.split_once("=\"")?;
            let (value, after) = label_value(after)?;
            if labels.insert(label.to_owned(), value).is_some() {
                return None;
            }
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        rest = &rest[1..];
    }
    let value = rest.strip_prefix(' ')?.parse().ok()?;
    Some(Sample { name: name.to_owned(), labels, value })
}

/// The text up to the closing quote, and what comes after it.
fn label_value(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    loop {
        match chars.next()? {
            (at, '"') => return Some((value, &text[at + 1..])),
            (_, '\\') => value.push(match chars.next()?.1 {
                'n' => '\n',
                c @ ('\\' | '"') => c,
                _ => return None,
            }),
            (_, c) => value.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# HELP a_total Help, with words.\n# TYPE a_total counter\n\
        a_total{x=\"1\",y=\"q\\\"\\\\}\"} 2\na_total{x=\"2\"} 3\n\nb 1e-3\nc{le=\"+Inf\"} +Inf\n";

    #[test]
    fn series_are_found_by_name_and_labels() {
        let page = Page::parse(PAGE);
        assert_eq!(page.types["a_total"], "counter");
        assert_eq!(page.value("a_total", &[("x", "1")]), Some(2.0));
        assert_eq!(page.value("a_total", &[("y", "q\"\\}")]), Some(2.0));
        assert_eq!(page.value("a_total", &[("x", "3")]), None);
        assert_eq!(page.sum("a_total", &[]), 5.0);
        assert_eq!(page.value("b", &[]), Some(0.001));
        assert_eq!(page.value("c", &[("le", "+Inf")]), Some(f64::INFINITY));
    }

    #[test]
    fn what_is_no_sample_is_not_read_as_one() {
        for line in
            ["a", "a{x=1} 1", "a{x=\"1\" 1", "a{x=\"1\"}", "a{x=\"1\",x=\"2\"} 1", "a b", "é 1"]
        {
            assert_eq!(sample(line), None, "{line}");
        }
    }
}
