//! Load generators: wrk, which uses the least CPU time per request, and h2load for HTTP/2.

use std::process::Command;
use std::{env, fs};

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum;

use crate::stats::Sorted;

/// Number of requests over HTTP/2 in place of one second. h2load 1.52 with a duration does not end if it has
/// hundreds of connections.
const H2LOAD_REQUESTS_PER_SECOND: u32 = 30_000;

/// Version of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Protocol {
    Http1,
    /// Without TLS, with prior knowledge.
    Http2,
}

/// Results of one run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LoadResult {
    pub(crate) requests: f64,
    pub(crate) per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

/// Loads `url` from one thread, with one request at a time on each connection.
///
/// # Errors
/// Fails if the status of a response was not 2xx or a connection failed.
pub(crate) fn load(
    protocol: Protocol,
    url: &str,
    connections: usize,
    seconds: u32,
) -> Result<LoadResult> {
    match protocol {
        Protocol::Http1 => wrk(url, connections, seconds),
        Protocol::Http2 => h2load(url, connections, seconds),
    }
}

fn h2load(url: &str, connections: usize, seconds: u32) -> Result<LoadResult> {
    let log = env::temp_dir().join(format!("bench-{}.h2load", std::process::id()));
    let output = Command::new("h2load")
        .args(["-t1", "-m1", &format!("-n{}", seconds * H2LOAD_REQUESTS_PER_SECOND)])
        .arg(format!("-c{connections}"))
        .arg(format!("--log-file={}", log.display()))
        .arg(url)
        .output()
        .context("cannot run h2load (Debian: apt-get install nghttp2-client)")?;
    // h2load appends to a log that exists.
    let requests = fs::read_to_string(&log).and_then(|text| fs::remove_file(&log).map(|()| text));
    ensure!(output.status.success(), "h2load {url}: {}", String::from_utf8_lossy(&output.stderr));
    parse_h2load(&requests?).with_context(|| format!("h2load {url}"))
}

/// Parses lines of start time, status and duration. The times are in microseconds.
fn parse_h2load(log: &str) -> Result<LoadResult> {
    let (mut first_us, mut last_us, mut durations_us) = (f64::MAX, 0.0_f64, Vec::new());
    for line in log.lines() {
        let fields: Vec<_> = line.split('\t').collect();
        let [start, status, duration] = fields[..] else { bail!("unexpected line {line:?}") };
        ensure!(status == "200", "status {status}");
        let (start_us, duration_us): (f64, f64) = (start.parse()?, duration.parse()?);
        first_us = first_us.min(start_us);
        last_us = last_us.max(start_us + duration_us);
        durations_us.push(duration_us);
    }
    let durations_us = Sorted::from_iter(durations_us);
    let requests = durations_us.len() as f64;
    ensure!(requests > 0.0, "no requests");
    Ok(LoadResult {
        requests,
        per_second: requests * 1e6 / (last_us - first_us),
        p50_ms: durations_us.quantile(0.5) / 1e3,
        p99_ms: durations_us.quantile(0.99) / 1e3,
    })
}

fn wrk(url: &str, connections: usize, seconds: u32) -> Result<LoadResult> {
    let output = Command::new("wrk")
        .args(["-t1", "--latency", "--timeout", "5s"])
        .args([format!("-c{connections}"), format!("-d{seconds}s"), url.to_owned()])
        .output()
        .context("cannot run wrk (Debian: apt-get install wrk)")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let failed =
        !output.status.success() || text.contains("Non-2xx") || text.contains("Socket errors");
    ensure!(!failed, "wrk {url}: {text}{}", String::from_utf8_lossy(&output.stderr));
    parse_wrk(&text).with_context(|| format!("unexpected output of wrk: {text}"))
}

fn parse_wrk(text: &str) -> Result<LoadResult> {
    let lines = || text.lines().map(str::trim);
    let value = |key: &str| {
        lines().find_map(|line| line.strip_prefix(key)).map(str::trim).context(key.to_owned())
    };
    let requests = lines().find_map(|line| line.split_once(" requests in "));
    Ok(LoadResult {
        requests: requests.context("requests")?.0.parse()?,
        per_second: value("Requests/sec:")?.parse()?,
        p50_ms: milliseconds(value("50%")?)?,
        p99_ms: milliseconds(value("99%")?)?,
    })
}

fn milliseconds(text: &str) -> Result<f64> {
    for (unit, factor) in [("us", 0.001), ("ms", 1.0), ("s", 1000.0)] {
        if let Some(number) = text.strip_suffix(unit) {
            return Ok(number.parse::<f64>()? * factor);
        }
    }
    bail!("time without a known unit: {text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h2load_log_has_quantiles() {
        let log: String = (1..=100).map(|ms| format!("17\t200\t{}\n", 1000 * ms)).collect();
        let result = parse_h2load(&log).unwrap();
        assert_eq!((result.requests, result.per_second), (100.0, 1000.0));
        assert_eq!((result.p50_ms, result.p99_ms), (51.0, 100.0));
        assert!(parse_h2load("17\t503\t1\n").is_err());
        assert!(parse_h2load("").is_err());
    }

    #[test]
    fn milliseconds_requires_unit() {
        assert_eq!(milliseconds("250.00us").unwrap(), 0.25);
        assert_eq!(milliseconds("1.50ms").unwrap(), 1.5);
        assert_eq!(milliseconds("2.00s").unwrap(), 2000.0);
        assert!(milliseconds("2").is_err());
    }
}
