//! Command-line arguments and environment variables of `lab load`.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use reqwest::Url;

use super::pacer::Schedule;
use crate::args::parse_time;
use crate::http::parse_url;

/// Sends GET /call-echo to service B at a constant rate and reports the results
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "lab load", version, after_help = AFTER_HELP)]
pub(super) struct Args {
    /// Base URL of service B
    #[arg(long, env = "LOAD_TARGET", value_name = "URL")]
    #[arg(default_value = "http://127.0.0.1:8081", value_parser = parse_url)]
    pub(super) target: Url,
    /// Requests per second; may be a fraction
    #[arg(long, env = "LOAD_RATE", value_name = "N")]
    #[arg(default_value = "50", value_parser = parse_rate)]
    pub(super) rate: f64,
    /// Time during which requests are sent, such as 30s or 5m; until stopped if absent
    #[arg(long, env = "LOAD_DURATION", value_name = "TIME", value_parser = parse_time::<8760>)]
    pub(super) duration: Option<Duration>,
    /// Time during which the rate grows linearly from 0, such as 30s
    #[arg(long, env = "LOAD_RAMP", value_name = "TIME", value_parser = parse_time::<8760>)]
    pub(super) ramp: Option<Duration>,
    /// Timeout of a request: connect, headers and body
    #[arg(long, env = "LOAD_TIMEOUT", value_name = "TIME")]
    #[arg(default_value = "5s", value_parser = parse_time::<1>)]
    pub(super) timeout: Duration,
    /// Maximum number of requests in flight; further requests are counted but not sent
    #[arg(long, env = "LOAD_MAX_IN_FLIGHT", value_name = "N")]
    #[arg(default_value = "500")]
    #[arg(value_parser = RangedU64ValueParser::<usize>::new().range(1..=60_000))]
    pub(super) max_in_flight: usize,
    /// Base URL of service A's /faults, on its admin address if it has one; injects faults
    #[arg(long, env = "LOAD_FAULTS_URL", value_name = "URL", value_parser = parse_url)]
    pub(super) faults_url: Option<Url>,
    /// File for the report as an HTML page with the curves of rate and latency over time
    #[arg(long, env = "LOAD_HTML_REPORT", value_name = "FILE")]
    pub(super) html_report: Option<PathBuf>,
}

impl Args {
    pub(super) fn schedule(&self) -> Schedule {
        let ramp = self.ramp.unwrap_or_default();
        Schedule { rate: self.rate, ramp, duration: self.duration }
    }
}

// A paragraph is one line because clap wraps it to the terminal's width.
const AFTER_HELP: &str = "\
The rate does not depend on response times (open loop). A latency starts when the request was due, so \
that a stalled server does not look fast. It includes the lag of this machine, the time until the \
request is written or a connect starts. The report shows this lag beside the latencies: it is not B's.

Progress is written to stderr and the report to stdout: requests, rate, latency quantiles, and \
outcomes by service B's error kinds. The prefix `B:` marks failures between the generator and B.

With --faults-url, service A is healthy for 45 s of each minute, then 5 s each: delayed by 1500 ms, \
status 500 for 20 % of the requests, connection resets. The faults are cleared at the end. A needs \
FAULTS_ENABLED=true, which the lab sets.

SIGTERM or SIGINT stops the load, waits for requests in flight (a second signal aborts them) and \
writes the report. Exit code 0, 1 if B never responded, 2 if a setting is invalid.";

fn parse_rate(text: &str) -> Result<f64, &'static str> {
    let rate = text.parse().ok().filter(|rate| (0.001..=100_000.0).contains(rate));
    rate.ok_or("expected requests per second, from 0.001 to 100000")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use observability::Error;

    fn parse(args: &[&str]) -> Result<Args, Error> {
        observability::parse(
            std::iter::once("lab load").chain(args.iter().copied()).map(Into::into),
        )
    }

    #[test]
    fn defaults_and_empty_values() {
        let empty = ["--rate=", "--duration=", "--faults-url=", "--ramp=", "--html-report="];
        for flags in [&[][..], &empty] {
            let args = parse(flags).unwrap();
            assert_eq!(args.target.as_str(), "http://127.0.0.1:8081/");
            assert_eq!((args.rate, args.duration), (50.0, None));
            assert_eq!(args.timeout, Duration::from_secs(5));
            assert_eq!((args.max_in_flight, args.faults_url), (500, None));
            assert_eq!((args.ramp, args.html_report), (None, None));
        }
    }

    #[test]
    fn values_are_read() {
        let flags = ["--rate", "0.5", "--duration", "1h 30m", "--faults-url=http://a:9464"];
        let args = parse(&flags).unwrap();
        assert_eq!((args.rate, args.duration), (0.5, Some(Duration::from_secs(5400))));
        assert_eq!(args.faults_url.map(String::from).as_deref(), Some("http://a:9464/"));
    }

    /// Each setting as its variable and flag.
    fn settings() -> Vec<(String, String)> {
        let command = Args::command();
        let name = |arg: &clap::Arg| {
            Some((arg.get_env()?.to_str()?.to_owned(), arg.get_long()?.to_owned()))
        };
        let settings: Vec<_> = command.get_arguments().filter_map(name).collect();
        assert_eq!(settings.len(), 8);
        settings
    }

    #[test]
    fn all_invalid_values_are_reported() {
        let flags = [
            "--target=secret",
            "--rate=NaN",
            "--duration=30",
            "--ramp=1",
            "--timeout=0s",
            "--max-in-flight=0",
            "--faults-url=https://secret@a",
        ];
        let error = parse(&flags).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let message = error.to_string();
        assert!(message.starts_with("lab load: 7 invalid settings\n"), "{message}");
        for (variable, flag) in settings() {
            // Any text is a path.
            if flag == "html-report" {
                continue;
            }
            let name = format!("{variable} (--{flag}): ");
            assert!(message.contains(&name), "no {name} in {message}");
        }
        assert!(!message.contains("secret"), "{message}");
    }

    #[test]
    fn help_lists_defaults() {
        let help = parse(&["--help"]).unwrap_err();
        assert_eq!(help.exit_code(), 0);
        let text = help.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        for (variable, flag) in settings() {
            assert!(text.contains(&format!("--{flag} <")), "{text}");
            assert!(text.contains(&format!("[env: {variable}]")), "{text}");
        }
        for default in ["http://127.0.0.1:8081", "50", "5s", "500"] {
            assert!(text.contains(&format!("[default: {default}]")), "{text}");
        }
    }
}
