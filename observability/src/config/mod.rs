//! Settings of a service: a flag and an environment variable each.
//!
//! ```
//! use observability::{Config, ServiceInfo, config::milliseconds};
//! use std::time::Duration;
//!
//! const SERVICE: ServiceInfo =
//!     observability::service!("greeter", log_label: "G", listen_addr: "127.0.0.1:8082");
//!
//! #[derive(clap::Args)]
//! struct Args {
//!     #[command(flatten)]
//!     config: Config,
//!     /// Time between two greetings
//!     #[arg(long, env, default_value = "500", value_parser = milliseconds(1))]
//!     pause: Duration,
//! }
//!
//! let args: Args = SERVICE.parse(["greeter", "--pause=20"].map(Into::into)).unwrap();
//! assert_eq!(args.pause, Duration::from_millis(20));
//! ```

use std::num::NonZeroUsize;
use std::str::FromStr;
use std::time::Duration;

use clap::ArgAction;
use clap::builder::TypedValueParser;
use tracing_subscriber::filter::{LevelFilter, Targets};

mod env_reader;
mod listen_addr;
mod otel;
mod pairs;
mod propagators;
mod request;
mod service;
mod span_limits;
pub(crate) mod variables;

pub(crate) use listen_addr::ListenAddr;
pub(crate) use otel::{BatchConfig, OtelConfig, OtlpConfig, Protocol};
pub(crate) use propagators::Propagators;
pub(crate) use request::RequestConfig;
pub use service::ServiceInfo;
pub(crate) use span_limits::SpanLimits;

/// Settings common to all services.
#[derive(Debug, Clone, clap::Args)]
#[non_exhaustive]
pub struct Config {
    /// Address to listen on, HOST:PORT or unix:/path; port 0 selects a free port, named in the first log
    /// line
    #[arg(long, env, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub(crate) listen_addr: ListenAddr,
    /// Separate address for /metrics, probes and other admin routes
    #[arg(long, env, value_name = "ADDRESS")]
    pub(crate) admin_addr: Option<ListenAddr>,
    /// Upper bound on graceful shutdown, from the signal to the exit
    #[arg(long = "shutdown-timeout-ms", env = "SHUTDOWN_TIMEOUT_MS", value_name = "MS")]
    #[arg(default_value = "10000", value_parser = milliseconds(0))]
    pub(crate) shutdown_timeout: Duration,
    /// Time after a shutdown signal during which requests are accepted while /readyz responds 503
    #[arg(long = "drain-delay-ms", env = "DRAIN_DELAY_MS", value_name = "MS")]
    #[arg(default_value = "0", value_parser = milliseconds(0))]
    pub(crate) drain_delay: Duration,
    /// Maximum number of requests in flight; further requests receive 503, error `overload`
    #[arg(long, env, value_name = "N", default_value = "512")]
    pub(crate) max_concurrent_requests: NonZeroUsize,
    /// Time after which a connection is closed that is slow to send request headers or the next bytes of a
    /// body, to read a response, or to send the next request
    #[arg(long = "idle-timeout-ms", env = "IDLE_TIMEOUT_MS", value_name = "MS")]
    #[arg(default_value = "10000", value_parser = milliseconds(1))]
    pub(crate) idle_timeout: Duration,
    /// Maximum number of series per metric; the rest is counted as `_OTHER`
    #[arg(long, env, value_name = "N", default_value = "2000")]
    pub(crate) metrics_series_limit: NonZeroUsize,
    /// Add native histograms of durations to /metrics for scrapers that ask for protobuf
    #[arg(long, env, value_name = "true|false", action = ArgAction::Set)]
    #[arg(num_args = 0..=1, default_missing_value = "true", default_value = "false")]
    pub(crate) metrics_native_histograms: bool,
    /// Format of log lines: logfmt or json
    #[arg(long, env, value_name = "FORMAT", default_value = "logfmt")]
    pub(crate) log_format: LogFormat,
    /// Log filter such as info,access=warn; `access` are the lines of requests
    #[arg(long = "rust-log", env = "RUST_LOG", value_name = "FILTER")]
    #[arg(default_value = "info", value_parser = parse_log_filter)]
    pub(crate) log_filter: Targets,
    #[command(flatten)]
    pub(crate) request: RequestConfig,
}

impl Config {
    /// Returns `LISTEN_ADDR`, for a service that binds its listener itself.
    pub fn listen_addr(&self) -> String {
        self.listen_addr.to_string()
    }

    /// Returns the address of the admin routes: `ADMIN_ADDR`, or else `LISTEN_ADDR`.
    pub(crate) fn admin_routes_addr(&self) -> &ListenAddr {
        self.admin_addr.as_ref().unwrap_or(&self.listen_addr)
    }

    /// Returns the upper bound on graceful shutdown, `SHUTDOWN_TIMEOUT_MS`.
    pub fn shutdown_timeout(&self) -> Duration {
        self.shutdown_timeout
    }
}

/// Format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum LogFormat {
    /// `key=value` pairs, quoted if needed.
    #[default]
    Logfmt,
    /// One JSON object per line.
    Json,
}

impl FromStr for LogFormat {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "logfmt" => Ok(Self::Logfmt),
            "json" => Ok(Self::Json),
            _ => Err("expected logfmt or json"),
        }
    }
}

/// Returns a parser of whole milliseconds from `min` to one day, for settings of type [`Duration`].
pub fn milliseconds(min: u64) -> impl TypedValueParser<Value = Duration> {
    const MAX: u64 = 24 * 60 * 60 * 1000;
    clap::builder::StringValueParser::new().try_map(move |text| match text.parse() {
        Ok(ms) if (min..=MAX).contains(&ms) => Ok(Duration::from_millis(ms)),
        _ => Err(format!("expected a whole number of milliseconds from {min} to {MAX}")),
    })
}

/// Parses directives `LEVEL` and `TARGET=LEVEL`, separated by commas. Empty directives are ignored. A
/// filter without a directive is that of an unset variable.
///
/// Unlike the parser of [`Targets`], it rejects a target without a level, because a misspelled level would
/// become a target that no line has.
fn parse_log_filter(text: &str) -> Result<Targets, &'static str> {
    let mut directives = text.split(',').map(str::trim).filter(|text| !text.is_empty()).peekable();
    if directives.peek().is_none() {
        return Ok(Targets::new().with_default(LevelFilter::INFO));
    }
    directives.try_fold(Targets::new(), |filter, directive| {
        Ok(match directive.split_once('=') {
            Some((target, level)) => filter.with_target(target.trim(), parse_level(level)?),
            None => filter.with_default(parse_level(directive)?),
        })
    })
}

fn parse_level(text: &str) -> Result<LevelFilter, &'static str> {
    // An empty level is `error` for `LevelFilter`.
    let level = Some(text.trim()).filter(|text| !text.is_empty());
    level.and_then(|level| level.parse().ok()).ok_or(
        "expected directives LEVEL or TARGET=LEVEL, separated by commas; the levels are off, error, \
         warn, info, debug and trace",
    )
}
