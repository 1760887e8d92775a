//! Load generators: wrk, which uses the least CPU time per request, and h2load for HTTP/2.

use std::process::Command;
use std::{env, fs};

use anyhow::{Context as _, Result, bail, ensure};

/// Version of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// Loads `url` for one second.
///
/// # Errors
/// Fails if the status of a response was not 2xx or a connection failed.
pub(crate) fn load(protocol: Protocol, url: &str, connections: usize) -> Result<LoadResult> {
    match protocol {
        Protocol::Http1 => wrk(url, connections, 1),
        Protocol::Http2 => h2load(url, connections),
    }
}

/// Runs one thread of h2load, one request at a time on each connection.
fn h2load(url: &str, connections: usize) -> Result<LoadResult> {
    let log = env::temp_dir().join(format!("bench-{}.h2load", std::process::id()));
    let output = Command::new("h2load")
        .args(["-t1", "-m1", "-D1", &format!("-c{connections}")])
        .arg(format!("--log-file={}", log.display()))
        .arg(url)
        .output()
        .context("cannot run h2load (Debian: apt-get install nghttp2-client)")?;
    ensure!(output.status.success(), "h2load {url}: {}", String::from_utf8_lossy(&output.stderr));
    let requests = fs::read_to_string(&log)?;
    fs::remove_file(&log)?;
    parse_h2load(&requests).with_context(|| format!("h2load {url}"))
}

/// Parses lines of start time, status and duration, in microseconds.
fn parse_h2load(log: &str) -> Result<LoadResult> {
    let mut durations = Vec::new();
    for line in log.lines() {
        let fields: Vec<_> = line.split('\t').collect();
        let [_, status, duration] = fields[..] else { bail!("unexpected line {line:?}") };
        ensure!(status == "200", "status {status}");
        durations.push(duration.parse::<f64>()?);
    }
    durations.sort_by(f64::total_cmp);
    let quantile = |percent: usize| durations.get(durations.len() * percent / 100);
    let requests = durations.len() as f64;
    Ok(LoadResult {
        requests,
        per_second: requests,
        p50_ms: quantile(50).context("no requests")? / 1e3,
        p99_ms: quantile(99).context("no requests")? / 1e3,
    })
}

/// Runs one thread of wrk against `url`.
///
/// # Errors
/// Fails if the status of a response was not 2xx or a connection failed.
pub(crate) fn wrk(url: &str, connections: usize, seconds: u32) -> Result<LoadResult> {
    let output = Command::new("wrk")
        .args(["-t1", "--latency", "--timeout", "5s"])
        .args([format!("-c{connections}"), format!("-d{seconds}s"), url.to_owned()])
        .output()
        .context("cannot run wrk (Debian: apt-get install wrk)")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let failed =
        !output.status.success() || text.contains("Non-2xx") || text.contains("Socket errors");
    ensure!(!failed, "wrk {url}: {text}{}", String::from_utf8_lossy(&output.stderr));
    parse(&text).with_context(|| format!("unexpected output of wrk: {text}"))
}

fn parse(text: &str) -> Result<LoadResult> {
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
        assert_eq!((result.requests, result.p50_ms, result.p99_ms), (100.0, 51.0, 100.0));
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
