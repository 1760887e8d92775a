//! Parameters of the query API, in Jaeger's syntax.
//!
//! A parameter that cannot be parsed is an error that names it. An empty value counts as absent, the
//! first value of a repeated parameter is used, and unknown parameters are ignored.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::num::NonZeroU32;
use std::time::UNIX_EPOCH;

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use serde::Deserialize;
use serde_json::Value as Json;

use crate::ids::TraceId;
use crate::json::QueryError;
use crate::search::{TraceQuery, parse_bool};
use crate::span::kind_name;

const HOUR_NS: u64 = 3_600_000_000_000;
const DAY_NS: u64 = 24 * HOUR_NS;
const DEFAULT_LIMIT: u32 = 100;
const DEFAULT_LOOKBACK_NS: u64 = 2 * DAY_NS;

fn invalid(name: &str, text: &str, reason: impl Display) -> QueryError {
    let text: String = text.chars().take(100).collect();
    QueryError::bad_request(format!("unable to parse param '{name}': {reason}: {text:?}"))
}

/// Parameters of a request, in its order.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(crate) struct QueryParams(Vec<(String, String)>);

impl QueryParams {
    /// Returns the values of a parameter.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        let values = self.0.iter().filter(move |(key, value)| key == name && !value.is_empty());
        values.map(|(_, value)| value.as_str())
    }

    pub(crate) fn first(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    pub(crate) fn service(&self) -> Result<String, QueryError> {
        let service = self.first("service").map(str::to_owned);
        service.ok_or_else(|| QueryError::bad_request("parameter 'service' is required"))
    }

    fn parse<T, E: Display>(
        &self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Result<Option<T>, QueryError> {
        let parse = |text| parse(text).map_err(|error| invalid(name, text, error));
        self.first(name).map(parse).transpose()
    }

    /// Parses a whole number of units. A negative number counts as 0.
    fn parse_time(&self, name: &str, unit_ns: u64) -> Result<Option<u64>, QueryError> {
        let time = self.parse(name, str::parse::<i64>)?;
        Ok(time.map(|time| u64::try_from(time).unwrap_or(0).saturating_mul(unit_ns)))
    }

    /// Returns the search that the parameters describe. Its times are microseconds since the Unix
    /// epoch.
    pub(crate) fn trace_query(&self) -> Result<TraceQuery, QueryError> {
        let end_ns = self.parse_time("end", 1_000)?.unwrap_or_else(now_ns);
        let lookback_ns = match self.first("lookback") {
            // The UI sends this word beside `start`.
            Some("custom") => None,
            _ => self.parse("lookback", parse_duration)?,
        };
        let earliest_ns = end_ns.saturating_sub(lookback_ns.unwrap_or(DEFAULT_LOOKBACK_NS));
        let query = TraceQuery {
            service: Some(self.service()?),
            operation: self.first("operation").map(str::to_owned),
            tags: self.tags()?,
            start_ns: self.parse_time("start", 1_000)?.unwrap_or(earliest_ns),
            end_ns,
            min_duration_ns: self.parse("minDuration", parse_duration)?,
            max_duration_ns: self.parse("maxDuration", parse_duration)?,
            limit: self
                .parse("limit", str::parse::<NonZeroU32>)?
                .map_or(DEFAULT_LIMIT, NonZeroU32::get),
        };
        match (query.min_duration_ns, query.max_duration_ns) {
            (Some(min), Some(max)) if max < min => {
                let message = "'maxDuration' should be greater than 'minDuration'";
                Err(QueryError::bad_request(message))
            }
            _ => Ok(query),
        }
    }

    /// Returns the window of `/api/dependencies` in nanoseconds since the Unix epoch. Its parameters
    /// are milliseconds.
    pub(crate) fn window_ns(&self) -> Result<(u64, u64), QueryError> {
        let end = self.end_ns()?;
        let lookback = self.parse_time("lookback", 1_000_000)?.unwrap_or(DAY_NS);
        Ok((end.saturating_sub(lookback), end))
    }

    /// Returns the end of a window, whose parameter is milliseconds, in nanoseconds since the Unix epoch.
    pub(crate) fn end_ns(&self) -> Result<u64, QueryError> {
        Ok(self.parse_time("endTs", 1_000_000)?.unwrap_or_else(now_ns))
    }

    pub(crate) fn positive_ms(&self, name: &str, default: u64) -> Result<u64, QueryError> {
        let ms = self.parse(name, str::parse::<NonZeroU32>)?;
        Ok(ms.map_or(default, |ms| u64::from(ms.get())))
    }

    pub(crate) fn quantile(&self) -> Result<f64, QueryError> {
        let quantile = self.parse("quantile", str::parse::<f64>)?;
        quantile
            .filter(|quantile| (0.0..=1.0).contains(quantile))
            .ok_or_else(|| QueryError::bad_request("parameter 'quantile' is required, from 0 to 1"))
    }

    pub(crate) fn flag(&self, name: &str) -> Result<bool, QueryError> {
        let parse = |text: &str| parse_bool(text).ok_or("expecting true or false");
        Ok(self.parse(name, parse)?.unwrap_or(false))
    }

    /// Returns the kinds of the parameter `spanKind`. The default is `server`.
    pub(crate) fn span_kinds(&self) -> Result<Vec<SpanKind>, QueryError> {
        let parse = |text: &str| {
            let name = if text.eq_ignore_ascii_case("unspecified") { "" } else { text };
            let is_named = |kind: &SpanKind| kind_name(*kind).eq_ignore_ascii_case(name);
            let mut kinds = (0..).map_while(|number| SpanKind::try_from(number).ok());
            kinds.find(is_named).ok_or_else(|| invalid("spanKind", text, "expecting a span kind"))
        };
        let kinds: Vec<_> = self.all("spanKind").map(parse).collect::<Result<_, _>>()?;
        Ok(if kinds.is_empty() { vec![SpanKind::Server] } else { kinds })
    }

    /// Parses `tag=key:value` and `tags={"key":"value"}`.
    fn tags(&self) -> Result<Vec<(String, String)>, QueryError> {
        let mut tags = Vec::new();
        for text in self.all("tag") {
            let pair = text.split_once(':');
            let (key, value) = pair.ok_or_else(|| invalid("tag", text, "expecting key:value"))?;
            tags.push((key.to_owned(), value.to_owned()));
        }
        for text in self.all("tags") {
            tags.extend(parse_tags("tags", text)?);
        }
        Ok(tags)
    }

    /// Returns the search of version 3 of the API, whose parameters have the prefix `query.` and are in
    /// snake case or camel case.
    pub(crate) fn trace_query_v3(&self) -> Result<TraceQuery, QueryError> {
        let find = |names: [&'static str; 2]| {
            names.into_iter().find_map(|name| Some((name, self.first(name)?)))
        };
        let time_ns = |names: [&'static str; 2]| {
            let (name, text) = find(names)
                .ok_or_else(|| QueryError::bad_request(format!("{} is required", names[0])))?;
            let time =
                humantime::parse_rfc3339_weak(text).map_err(|error| invalid(name, text, error))?;
            let ns = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
            Ok(u64::try_from(ns).unwrap_or(u64::MAX))
        };
        let duration_ns = |names: [&'static str; 2]| {
            let parse =
                |(name, text)| parse_duration(text).map_err(|error| invalid(name, text, error));
            find(names).map(parse).transpose()
        };
        let limit = find(["query.search_depth", "query.searchDepth"])
            .or_else(|| find(["query.num_traces", "query.numTraces"]));
        Ok(TraceQuery {
            service: find(["query.service_name", "query.serviceName"]).map(|(_, text)| text.into()),
            operation: find(["query.operation_name", "query.operationName"])
                .map(|(_, text)| text.into()),
            tags: match self.first("query.attributes") {
                Some(text) => parse_tags("query.attributes", text)?,
                None => Vec::new(),
            },
            start_ns: time_ns(["query.start_time_min", "query.startTimeMin"])?,
            end_ns: time_ns(["query.start_time_max", "query.startTimeMax"])?,
            min_duration_ns: duration_ns(["query.duration_min", "query.durationMin"])?,
            max_duration_ns: duration_ns(["query.duration_max", "query.durationMax"])?,
            limit: match limit {
                Some((name, text)) => {
                    text.parse::<NonZeroU32>().map_err(|error| invalid(name, text, error))?.get()
                }
                None => DEFAULT_LIMIT,
            },
        })
    }
}

pub(crate) fn parse_trace_id(text: &str) -> Result<TraceId, QueryError> {
    TraceId::from_hex(text).ok_or_else(|| invalid("traceID", text, "expecting up to 32 hex digits"))
}

/// Parses tags such as `{"key":"value"}`.
fn parse_tags(name: &str, text: &str) -> Result<Vec<(String, String)>, QueryError> {
    let object: BTreeMap<String, Json> =
        serde_json::from_str(text).map_err(|error| invalid(name, text, error))?;
    let tag = |(key, value): (String, Json)| match value {
        Json::String(value) => Ok((key, value)),
        Json::Bool(_) | Json::Number(_) => Ok((key, value.to_string())),
        _ => Err(invalid(name, text, "values are strings")),
    };
    object.into_iter().map(tag).collect()
}

/// Parses a duration like `1.2s`, `100ms` or `1h30m` as Go does, and days, which the UI offers.
fn parse_duration(text: &str) -> Result<u64, &'static str> {
    let is_number = |c: char| c.is_ascii_digit() || c == '.';
    let error = "expecting a duration like 1h or 1.5ms";
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
            _ => return Err(error),
        };
        total_ns += number.parse::<f64>().map_err(|_| error)? * unit_ns;
        rest = after;
    }
    let is_valid = !text.is_empty() && total_ns < u64::MAX as f64;
    if is_valid { Ok(total_ns.round() as u64) } else { Err(error) }
}

fn now_ns() -> u64 {
    u64::try_from(UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use axum::extract::Query;

    use super::*;

    fn params(query: &str) -> QueryParams {
        let uri = format!("/?{query}").parse().unwrap();
        Query::try_from_uri(&uri).unwrap().0
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
            assert_eq!(parse_duration(text), Ok(ns), "{text}");
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
            assert!(parse_duration(text).is_err(), "{text:?}");
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
            let message = params(query).trace_query().unwrap_err().message;
            assert!(message.contains(&format!("'{name}'")), "{query}: {message}");
        }
        assert!(
            params("traceID=1&traceID=zz").all("traceID").any(|id| parse_trace_id(id).is_err())
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
