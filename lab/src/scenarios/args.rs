//! Command line of `lab scenarios`.

use std::time::Duration;

use reqwest::Url;

use crate::args::parse_time;
use crate::http::parse_url;

/// Tests services A and B in eight suites and reports each result
#[derive(Debug, clap::Parser)]
#[command(name = "lab scenarios", version, after_help = AFTER_HELP)]
pub(super) struct Args {
    /// Base URL of a running service A, in any language
    #[arg(long, value_name = "URL", value_parser = parse_url, requires = "service_b")]
    pub(super) service_a: Option<Url>,
    /// Base URL of a running service B, in any language
    #[arg(long, value_name = "URL", value_parser = parse_url, requires = "service_a")]
    pub(super) service_b: Option<Url>,
    /// Time that B gives A, such as 1s; each response must arrive within one and a half times of it
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_time::<1>)]
    pub(super) time_limit: Duration,
    /// Print one JSON document instead of text
    #[arg(long)]
    pub(super) json: bool,
    /// Show log lines, counter and trace of each failed call, and check that they name the same error kind
    #[arg(long, conflicts_with = "service_a")]
    pub(super) explain: bool,
}

// A paragraph is one line because clap wraps it to the terminal's width.
const AFTER_HELP: &str = "\
Without URLs the lab starts A, B and a Jaeger on free ports, and stops, starts and breaks A as a suite \
needs. The environment does not change the settings of these services.

With --service-a and --service-b, tests that do not apply are skipped with the reason. Run it with both \
services, then with A stopped, then with B stopped. While A is stopped and its address is a loopback \
address, the lab listens there and plays a broken A. If A has /faults, as that of the lab has, they are \
used while A runs and cleared at the end.

On a terminal --explain keeps the Jaeger with the traces until Ctrl-C.

Exit code 0 if no test failed and at least one passed, 1 otherwise, 2 if the command line is invalid.";

impl Args {
    /// Maximum time until the end of a response.
    pub(super) fn response_timeout(&self) -> Duration {
        self.time_limit * 3 / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use observability::Error;

    fn parse(args: &[&str]) -> Result<Args, Error> {
        let args = std::iter::once("lab scenarios").chain(args.iter().copied());
        observability::parse(args.map(Into::into))
    }

    #[test]
    fn time_limit_includes_margin() {
        let args = parse(&[]).unwrap();
        assert_eq!(args.response_timeout(), Duration::from_millis(1500));
        let args = parse(&["--time-limit=2s"]).unwrap();
        assert_eq!(args.response_timeout(), Duration::from_secs(3));
    }

    #[test]
    fn incomplete_target_is_rejected() {
        let (a, b) = ("--service-a=http://127.0.0.1:1", "--service-b=http://127.0.0.1:2");
        assert!(parse(&[a, b, "--json"]).is_ok());
        let invalid: [&[&str]; 5] =
            [&[a], &[b], &[a, b, "--explain"], &["--time-limit=0s"], &["--service-c=x"]];
        for flags in invalid {
            assert_eq!(parse(flags).unwrap_err().exit_code(), 2, "{flags:?}");
        }
    }
}
