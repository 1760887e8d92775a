//! Load generator: wrk, which uses the least CPU time per request.

use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

/// Results of one run of wrk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WrkResult {
    pub(crate) requests: f64,
    pub(crate) per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

/// Runs one thread of wrk against `url`.
///
/// # Errors
/// Fails if the status of a response was not 2xx or a connection failed.
pub(crate) fn wrk(url: &str, connections: usize, seconds: u32) -> Result<WrkResult> {
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

fn parse(text: &str) -> Result<WrkResult> {
    let lines = || text.lines().map(str::trim);
    let value = |key: &str| {
        lines().find_map(|line| line.strip_prefix(key)).map(str::trim).context(key.to_owned())
    };
    let requests = lines().find_map(|line| line.split_once(" requests in "));
    Ok(WrkResult {
        requests: requests.context("requests")?.0.parse()?,
        per_second: value("Requests/sec:")?.parse()?,
        p50_ms: milliseconds(value("50%")?)?,
        p99_ms: milliseconds(value("99%")?)?,
    })
}

fn milliseconds(text: &str) -> Result<f64> {
    let unit = text.find(|c: char| c.is_ascii_alphabetic()).context("time without a unit")?;
    let (number, unit) = text.split_at(unit);
    let factor = match unit {
        "us" => 0.001,
        "ms" => 1.0,
        "s" => 1000.0,
        _ => bail!("time with an unknown unit: {text}"),
    };
    Ok(number.parse::<f64>()? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_requires_unit() {
        assert_eq!(milliseconds("250.00us").unwrap(), 0.25);
        assert_eq!(milliseconds("1.50ms").unwrap(), 1.5);
        assert_eq!(milliseconds("2.00s").unwrap(), 2000.0);
        assert!(milliseconds("2").is_err());
    }
}
