//! The load: wrk, which costs the least CPU of its own per request.

use std::process::Command;

use crate::Result;

/// What one run of wrk saw.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Load {
    pub(crate) requests: f64,
    pub(crate) per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

/// One thread of wrk against `url`; an error where any answer was not 2xx.
pub(crate) fn wrk(url: &str, connections: usize, seconds: u32) -> Result<Load> {
    let output = Command::new("wrk")
        .args(["-t1", "--latency", "--timeout", "5s"])
        .args([format!("-c{connections}"), format!("-d{seconds}s"), url.to_owned()])
        .output()
        .map_err(|error| format!("wrk: {error} (Debian: apt-get install wrk)"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() || text.contains("Non-2xx") || text.contains("Socket errors") {
        return Err(format!("wrk {url}: {text}{}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let after = |key: &str| -> Result<&str> {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(key));
        Ok(line.ok_or_else(|| format!("wrk says nothing of {key}: {text}"))?.trim())
    };
    let requests = text.lines().find_map(|line| line.trim().split_once(" requests in "));
    Ok(Load {
        requests: requests.ok_or("wrk counts no requests")?.0.parse()?,
        per_second: after("Requests/sec:")?.parse()?,
        p50_ms: milliseconds(after("50%")?)?,
        p99_ms: milliseconds(after("99%")?)?,
    })
}

fn milliseconds(text: &str) -> Result<f64> {
    let unit = text.find(|c: char| c.is_ascii_alphabetic()).ok_or("no unit")?;
    let (number, unit) = text.split_at(unit);
    let factor = match unit {
        "us" => 0.001,
        "ms" => 1.0,
        "s" => 1000.0,
        _ => return Err(format!("not a time: {text}").into()),
    };
    Ok(number.parse::<f64>()? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(milliseconds("250.00us").unwrap(), 0.25);
        assert_eq!(milliseconds("1.50ms").unwrap(), 1.5);
        assert_eq!(milliseconds("2.00s").unwrap(), 2000.0);
        assert!(milliseconds("2").is_err());
    }
}
