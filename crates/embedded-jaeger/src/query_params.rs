//! Parameters of the query API, in Jaeger's syntax.
//!
//! A parameter that cannot be parsed is an error that names it. An empty value counts as absent, the
//! first value of a repeated parameter is used, and unknown parameters are ignored.

use std::collections::BTreeMap;
use std::num::ParseIntError;
use std::time::UNIX_EPOCH;

use axum::BoxError;
use serde::Deserialize;
use serde_json::Value as Json;

use crate::ids::TraceId;
use crate::search::TraceQuery;

const DEFAULT_LIMIT: usize = 100;
const HOUR_NS: u64 = 3_600_000_000_000;
const DAY_NS: u64 = 24 * HOUR_NS;
const DEFAULT_LOOKBACK_NS: u64 = 2 * DAY_NS;

/// Error of a request with missing or invalid parameters.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ParamError {
    #[error("parameter '{0}' is required")]
    Missing(&'static str),
    #[error("unable to parse param '{name}': {source}: {text:?}")]
    Invalid { name: &'static str, source: BoxError, text: String },
    #[error("'maxDuration' should be greater than 'minDuration'")]
    EmptyDurationRange,
}

fn invalid(name: &'static str, text: &str, source: impl Into<BoxError>) -> ParamError {
    ParamError::Invalid { name, source: source.into(), text: text.chars().take(100).collect() }
}

/// Parameters of all endpoints. `lookback` is in milliseconds beside `end_ts`, and a duration
/// beside `end`. The other times are microseconds since the Unix epoch.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct QueryParams {
    pub(crate) service: Param,
    pub(crate) span_kind: Param,
    operation: Param,
    #[serde(rename = "traceID")]
    pub(crate) trace_id: Param,
    tag: Param,
    tags: Param,
    start: Param,
    end: Param,
    end_ts: Param,
    lookback: Param,
    min_duration: Param,
    max_duration: Param,
    limit: Param,
    pub(crate) pretty_print: Param,
}

impl QueryParams {
    pub(crate) fn required_service(&self) -> Result<String, ParamError> {
        self.service.first().map(str::to_owned).ok_or(ParamError::Missing("service"))
    }

    /// Returns the search that the parameters describe.
    pub(crate) fn trace_query(&self) -> Result<TraceQuery, ParamError> {
        let micros = |text: &str| parse_time(text, 1_000);
        let duration = |text: &str| parse_duration(text).ok_or("no duration like 1.5ms");
        let lookback = |text: &str| match text {
            // The UI sends this word beside `start`.
            "custom" => Ok(DEFAULT_LOOKBACK_NS),
            _ => parse_duration(text).ok_or("no duration like 1h"),
        };
        let end_ns = self.end.parse("end", micros)?.unwrap_or_else(now_ns);
        let query = TraceQuery {
            service: self.required_service()?,
            operation: self.operation.first().map(str::to_owned),
            tags: self.all_tags()?,
            start_ns: match self.start.parse("start", micros)? {
                Some(start) => start,
                None => end_ns.saturating_sub(
                    self.lookback.parse("lookback", lookback)?.unwrap_or(DEFAULT_LOOKBACK_NS),
                ),
            },
            end_ns,
            min_duration_ns: self.min_duration.parse("minDuration", duration)?,
            max_duration_ns: self.max_duration.parse("maxDuration", duration)?,
            limit: self.limit.parse("limit", parse_limit)?.unwrap_or(DEFAULT_LIMIT),
        };
        match (query.min_duration_ns, query.max_duration_ns) {
            (Some(min), Some(max)) if max < min => Err(ParamError::EmptyDurationRange),
            _ => Ok(query),
        }
    }

    /// Returns the window of `/api/dependencies` in nanoseconds since the Unix epoch.
    pub(crate) fn window_ns(&self) -> Result<(u64, u64), ParamError> {
        let millis = |text: &str| parse_time(text, 1_000_000);
        let end = self.end_ts.parse("endTs", millis)?.unwrap_or_else(now_ns);
        let lookback = self.lookback.parse("lookback", millis)?.unwrap_or(DAY_NS);
        Ok((end.saturating_sub(lookback), end))
    }

    /// Parses `tag=key:value` and `tags={"key":"value"}`.
    fn all_tags(&self) -> Result<Vec<(String, String)>, ParamError> {
        let mut tags = Vec::new();
        for text in self.tag.all() {
            let pair = text.split_once(':');
            let (key, value) = pair.ok_or_else(|| invalid("tag", text, "expecting key:value"))?;
            tags.push((key.to_owned(), value.to_owned()));
        }
        for text in self.tags.all() {
            let object: BTreeMap<String, Json> =
                serde_json::from_str(text).map_err(|error| invalid("tags", text, error))?;
            for (key, value) in object {
                match value {
                    Json::String(value) => tags.push((key, value)),
                    Json::Bool(_) | Json::Number(_) => tags.push((key, value.to_string())),
                    _ => return Err(invalid("tags", text, "values are strings")),
                }
            }
        }
        Ok(tags)
    }
}

/// Values of one parameter.
#[derive(Debug, Default, Deserialize)]
#[serde(transparent)]
pub(crate) struct Param(Vec<String>);

impl Param {
    pub(crate) fn all(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str).filter(|value| !value.is_empty())
    }

    pub(crate) fn first(&self) -> Option<&str> {
        self.all().next()
    }

    fn parse<T, E: Into<BoxError>>(
        &self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Result<Option<T>, ParamError> {
        let parse = |text| parse(text).map_err(|error| invalid(name, text, error));
        self.first().map(parse).transpose()
    }
}

pub(crate) fn parse_trace_id(text: &str) -> Result<TraceId, ParamError> {
    TraceId::from_hex(text).ok_or_else(|| invalid("traceID", text, "expecting up to 32 hex digits"))
}

fn parse_limit(text: &str) -> Result<usize, BoxError> {
    match text.parse::<u32>()? {
        0 => Err("must be 1 or more".into()),
        limit => Ok(limit as usize),
    }
}

/// Parses a whole number of units. A negative number counts as 0.
fn parse_time(text: &str, unit_ns: u64) -> Result<u64, ParseIntError> {
    Ok(u64::try_from(text.parse::<i64>()?).unwrap_or(0).saturating_mul(unit_ns))
}

/// Parses a duration like `1.2s`, `100ms` or `1h30m` as Go does, and days, which the UI offers.
fn parse_duration(text: &str) -> Option<u64> {
    let is_number = |c: char| c.is_ascii_digit() || c == '.';
    let (mut rest, mut total_ns) = (text, 0.0);
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c| !is_number(c)).unwrap_or(rest.len()));
        let (unit, after) = after.split_at(after.find(is_number).unwrap_or(after.len()));
        let unit_ns = match unit {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => HOUR_NS as f64,
            "d" => DAY_NS as f64,
            "" if text == "0" => 1.0,
            _ => return None,
        };
        total_ns += number.parse::<f64>().ok()? * unit_ns;
        rest = after;
    }
    (!text.is_empty() && total_ns < u64::MAX as f64).then_some(total_ns.round() as u64)
}

fn now_ns() -> u64 {
    u64::try_from(UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(query: &str) -> QueryParams {
        serde_html_form::from_str(query).unwrap()
    }

    #[test]
    fn durations_match_go_syntax() {
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
            assert_eq!(parse_duration(text), Some(ns), "{text}");
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
            assert_eq!(parse_duration(text), None, "{text:?}");
        }
    }

    #[test]
    fn default_lookback_is_two_days() {
        let query = params("service=a").trace_query().unwrap();
        assert_eq!(query.end_ns - query.start_ns, DEFAULT_LOOKBACK_NS);
        assert_eq!(query.limit, 100);
        let query = params("service=a&lookback=1h&end=7200000000").trace_query().unwrap();
        assert_eq!((query.start_ns, query.end_ns), (HOUR_NS, 2 * HOUR_NS));
    }

    #[test]
    fn tags_from_pairs_or_json() {
        let query =
            "service=a&tag=url%3Ahttp://x&tags=%7B%22error%22%3A%22true%22%2C%22n%22%3A1%7D";
        let tags = params(query).trace_query().unwrap().tags;
        let expected = [("url", "http://x"), ("error", "true"), ("n", "1")];
        assert_eq!(tags, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
    }

    #[test]
    fn invalid_parameter_is_named() {
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
            let message = params(query).trace_query().unwrap_err().to_string();
            assert!(message.contains(&format!("'{name}'")), "{query}: {message}");
        }
        assert!(
            params("traceID=1&traceID=zz").trace_id.all().any(|id| parse_trace_id(id).is_err())
        );
        assert!(params("lookback=1h").window_ns().is_err());
    }

    #[test]
    fn out_of_range_times_are_clamped() {
        let query = format!("service=a&start=-5&end={}", i64::MAX);
        let query = params(&query).trace_query().unwrap();
        assert_eq!((query.start_ns, query.end_ns), (0, u64::MAX));
    }
}
