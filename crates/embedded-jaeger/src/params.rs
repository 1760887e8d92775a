//! The query API's parameters, in Jaeger's own grammar.
//!
//! A parameter that cannot be read is an error that names it, never a guess.

use std::borrow::Cow;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value as Json;

use crate::ids::TraceId;
use crate::search::TraceQuery;

const DEFAULT_LIMIT: usize = 100;
const HOUR_NS: u64 = 3_600_000_000_000;
const DAY_NS: u64 = 24 * HOUR_NS;
const DEFAULT_LOOKBACK_NS: u64 = 2 * DAY_NS;

/// What is wrong with a request, for the person who wrote it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadRequest(pub(crate) String);

type Result<T> = std::result::Result<T, BadRequest>;

/// The decoded pairs of a query string.
pub(crate) struct Params<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Params<'a> {
    pub(crate) fn parse(query: &'a str) -> Self {
        Self(form_urlencoded::parse(query.as_bytes()).collect())
    }

    /// All values of a parameter, the empty ones apart.
    fn all<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s str> {
        let of_name = self.0.iter().filter(move |(key, value)| key == name && !value.is_empty());
        of_name.map(|(_, value)| value.as_ref())
    }

    /// The first value of a parameter; an empty one counts as absent.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, value)| key == name && !value.is_empty())
            .map(|(_, value)| &**value)
    }

    /// The parameter `service`, which most requests need.
    pub(crate) fn service(&self) -> Result<&str> {
        self.get("service").ok_or_else(|| BadRequest("parameter 'service' is required".to_owned()))
    }

    /// Whether the answer is to be indented.
    pub(crate) fn pretty(&self) -> bool {
        self.get("prettyPrint").is_some_and(|value| value != "false")
    }

    /// The traces asked for by id.
    pub(crate) fn trace_ids(&self) -> Result<Vec<TraceId>> {
        self.all("traceID").map(trace_id).collect()
    }

    /// The search that the parameters describe.
    pub(crate) fn trace_query(&self) -> Result<TraceQuery> {
        let end_ns = self.time("end", 1_000)?.unwrap_or_else(now_ns);
        let query = TraceQuery {
            service: self.service()?.to_owned(),
            operation: self.get("operation").map(str::to_owned),
            tags: self.tags()?,
            start_ns: match self.time("start", 1_000)? {
                Some(start) => start,
                None => end_ns.saturating_sub(self.lookback()?),
            },
            end_ns,
            min_duration_ns: self.duration("minDuration")?,
            max_duration_ns: self.duration("maxDuration")?,
            limit: self.limit()?,
        };
        match (query.min_duration_ns, query.max_duration_ns) {
            (Some(min), Some(max)) if max < min => {
                Err(BadRequest("'maxDuration' should be greater than 'minDuration'".to_owned()))
            }
            _ => Ok(query),
        }
    }

    /// The window of `/api/dependencies` in nanoseconds: from, to.
    pub(crate) fn window_ns(&self) -> Result<(u64, u64)> {
        let end = self.time("endTs", 1_000_000)?.unwrap_or_else(now_ns);
        let lookback = self.time("lookback", 1_000_000)?.unwrap_or(DAY_NS);
        Ok((end.saturating_sub(lookback), end))
    }

    /// A whole number of `unit_ns`; one before the epoch counts as the epoch.
    fn time(&self, name: &str, unit_ns: u64) -> Result<Option<u64>> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        let units: i64 = text.parse().map_err(|error| unreadable(name, text, error))?;
        Ok(Some(u64::try_from(units).unwrap_or(0).saturating_mul(unit_ns)))
    }

    fn duration(&self, name: &str) -> Result<Option<u64>> {
        self.get(name)
            .map(|text| {
                duration_ns(text).ok_or_else(|| unreadable(name, text, "no duration like 1.5ms"))
            })
            .transpose()
    }

    /// Only where there is no `start`: the interface sends both, and the word `custom` here.
    fn lookback(&self) -> Result<u64> {
        match self.get("lookback") {
            None | Some("custom") => Ok(DEFAULT_LOOKBACK_NS),
            Some(text) => {
                duration_ns(text).ok_or_else(|| unreadable("lookback", text, "no duration like 1h"))
            }
        }
    }

    fn limit(&self) -> Result<usize> {
        let Some(text) = self.get("limit") else {
            return Ok(DEFAULT_LIMIT);
        };
        match text.parse::<u32>() {
            Ok(0) => Err(unreadable("limit", text, "must be 1 or more")),
            Ok(limit) => Ok(limit as usize),
            Err(error) => Err(unreadable("limit", text, error)),
        }
    }

    /// `tag=key:value`, any number of them, and `tags={"key":"value"}`.
    fn tags(&self) -> Result<Vec<(String, String)>> {
        let mut tags = Vec::new();
        for tag in self.all("tag") {
            let (key, value) =
                tag.split_once(':').ok_or_else(|| unreadable("tag", tag, "expecting key:value"))?;
            tags.push((key.to_owned(), value.to_owned()));
        }
        for text in self.all("tags") {
            let object: serde_json::Map<String, Json> =
                serde_json::from_str(text).map_err(|error| unreadable("tags", text, error))?;
            for (key, value) in object {
                let value = match value {
                    Json::String(value) => value,
                    Json::Bool(_) | Json::Number(_) => value.to_string(),
                    _ => return Err(unreadable("tags", text, "values are strings")),
                };
                tags.push((key, value));
            }
        }
        Ok(tags)
    }
}

/// A trace id from a path or a parameter.
pub(crate) fn trace_id(text: &str) -> Result<TraceId> {
    TraceId::from_hex(text)
        .ok_or_else(|| unreadable("traceID", text, "expecting up to 32 hex digits"))
}

fn unreadable(name: &str, text: &str, why: impl std::fmt::Display) -> BadRequest {
    let shown: String = text.chars().take(100).collect();
    BadRequest(format!("unable to parse param '{name}': {why}: {shown:?}"))
}

fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Nanoseconds of a duration like `1.2s`, `100ms` or `1h30m`, and days, which the interface offers.
fn duration_ns(text: &str) -> Option<u64> {
    if text == "0" {
        return Some(0);
    }
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        total += number
            * match &rest[..unit] {
                "ns" => 1.0,
                "us" | "µs" | "μs" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 60e9,
                "h" => HOUR_NS as f64,
                "d" => DAY_NS as f64,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    (!text.is_empty() && total < u64::MAX as f64).then_some(total.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, ns) in [
            ("0", 0),
            ("1ns", 1),
            ("1.5ms", 1_500_000),
            (".5s", 500_000_000),
            ("100us", 100_000),
            ("100µs", 100_000),
            ("1h30m", 5_400_000_000_000),
            ("2d", 2 * DAY_NS),
        ] {
            assert_eq!(duration_ns(text), Some(ns), "{text}");
        }
        for text in [
            "",
            "1",
            "s",
            "-1s",
            "1.2.3s",
            "1 s",
            "1sec",
            "é",
            "1e3s",
            ".",
            ".s",
            "99999999999h",
            "+1s",
        ] {
            assert_eq!(duration_ns(text), None, "{text:?}");
        }
    }

    #[test]
    fn default_lookback_is_two_days() {
        let query = Params::parse("service=a").trace_query().unwrap();
        assert_eq!(query.end_ns - query.start_ns, DEFAULT_LOOKBACK_NS);
        assert_eq!(query.limit, 100);
        let query = Params::parse("service=a&lookback=1h&end=7200000000").trace_query().unwrap();
        assert_eq!((query.start_ns, query.end_ns), (HOUR_NS, 2 * HOUR_NS));
    }

    #[test]
    fn tags_come_one_by_one_and_as_json() {
        let query =
            "service=a&tag=url%3Ahttp://x&tags=%7B%22error%22%3A%22true%22%2C%22n%22%3A1%7D";
        let tags = Params::parse(query).trace_query().unwrap().tags;
        let expected = [("url", "http://x"), ("error", "true"), ("n", "1")];
        assert_eq!(tags, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
    }

    #[test]
    fn each_bad_parameter_is_named() {
        for (query, name) in [
            ("", "service"),
            ("service=", "service"),
            ("service=a&limit=0", "limit"),
            ("service=a&limit=-1", "limit"),
            ("service=a&limit=99999999999", "limit"),
            ("service=a&start=x", "start"),
            ("service=a&end=1e9", "end"),
            ("service=a&end=99999999999999999999", "end"),
            ("service=a&lookback=soon", "lookback"),
            ("service=a&minDuration=5", "minDuration"),
            ("service=a&maxDuration=-1s", "maxDuration"),
            ("service=a&minDuration=2s&maxDuration=1s", "maxDuration"),
            ("service=a&tag=novalue", "tag"),
            ("service=a&tags=%5B%5D", "tags"),
            ("service=a&tags=%7B%22a%22%3A%7B%7D%7D", "tags"),
        ] {
            let BadRequest(message) = Params::parse(query).trace_query().unwrap_err();
            assert!(message.contains(&format!("'{name}'")), "{query}: {message}");
        }
        assert!(Params::parse("traceID=1&traceID=zz").trace_ids().is_err());
        assert!(Params::parse("lookback=1h").window_ns().is_err());
    }

    #[test]
    fn out_of_range_times_are_clamped() {
        let query = format!("service=a&start=-5&end={}", i64::MAX);
        let query = Params::parse(&query).trace_query().unwrap();
        assert_eq!((query.start_ns, query.end_ns), (0, u64::MAX));
    }
}
