//! Command line of `lab` and `lab jaeger`.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::time::Duration;

use embedded_jaeger::JaegerConfig;
use observability::Error;

/// Service A, service B and a Jaeger on this machine; port 0 selects a free port
#[derive(Debug, clap::Parser)]
#[command(name = "lab", version, after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// Address of service A
    #[arg(long, env, value_name = "IP:PORT", default_value = "127.0.0.1:8080")]
    pub(crate) service_a_addr: SocketAddr,
    /// Address of service B
    #[arg(long, env, value_name = "IP:PORT", default_value = "127.0.0.1:8081")]
    pub(crate) service_b_addr: SocketAddr,
    /// Address of the Jaeger UI and its query API
    #[arg(long, env, value_name = "IP:PORT", default_value = "127.0.0.1:16686")]
    jaeger_ui_addr: SocketAddr,
    /// Address at which Jaeger receives spans over gRPC
    #[arg(long, env, value_name = "IP:PORT", default_value = "127.0.0.1:4317")]
    otlp_grpc_addr: SocketAddr,
    /// Address at which Jaeger receives spans over http/protobuf
    #[arg(long, env, value_name = "IP:PORT", default_value = "127.0.0.1:4318")]
    otlp_http_addr: SocketAddr,
    /// Print the license of the Jaeger UI that this binary contains
    #[arg(long)]
    licenses: bool,
}

const AFTER_HELP: &str = "\
On a terminal the key a stops or starts A, b does the same for B, and t prints the traces of the \
slowest request and of the last failed request of each error kind in the last five minutes. q or Ctrl-C ends it all.

Traces go to an embedded Jaeger, in memory. If OTEL_EXPORTER_OTLP_ENDPOINT is set, they go there, and \
the lab starts no Jaeger. `lab jaeger` starts the embedded Jaeger alone.

`lab load` sends requests to B at a constant rate and prints a report; see `lab load --help`. `lab \
scenarios` tests A and B in eight suites; see `lab scenarios --help`.

The services read their other settings from the environment (cargo run -p service-b -- --help):
  SERVICE_A_TIMEOUT_MS, SERVICE_A_CONNECT_RETRIES, SERVICE_A_BREAKER_FAILURES, FAULTS_ENABLED,
  MAX_CONCURRENT_REQUESTS, IDLE_TIMEOUT_MS, SHUTDOWN_TIMEOUT_MS, DRAIN_DELAY_MS, LONG_LIVED_TYPES,
  ALLOWED_HOSTS, TRUSTED_PROXIES, PUBLIC_ENDPOINT, RECORD_URL_QUERY, METRICS_SERIES_LIMIT,
  METRICS_NATIVE_HISTOGRAMS, LOG_FORMAT, LOG_PATH, RUST_LOG, OTEL_*";

impl Args {
    /// Parses a command line and the environment.
    pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Self, Error> {
        let args: Self = observability::parse(args)?;
        if args.licenses {
            return Err(Error::Finished(embedded_jaeger::LICENSES.to_owned()));
        }
        Ok(args)
    }

    /// Returns the addresses of the Jaeger with their flags.
    pub(crate) fn jaeger_addresses(&self) -> [(&'static str, SocketAddr); 3] {
        [
            ("--jaeger-ui-addr", self.jaeger_ui_addr),
            ("--otlp-grpc-addr", self.otlp_grpc_addr),
            ("--otlp-http-addr", self.otlp_http_addr),
        ]
    }

    /// Returns the addresses of both services with their flags.
    pub(crate) fn service_addresses(&self) -> [(&'static str, SocketAddr); 2] {
        [("--service-a-addr", self.service_a_addr), ("--service-b-addr", self.service_b_addr)]
    }

    pub(crate) fn jaeger(&self) -> JaegerConfig {
        JaegerConfig {
            ui: self.jaeger_ui_addr,
            otlp_grpc: self.otlp_grpc_addr,
            otlp_http: self.otlp_http_addr,
            ..Default::default()
        }
    }
}

/// Parses a time of at most `MAX_HOURS`.
pub(crate) fn parse_time<const MAX_HOURS: u64>(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).ok();
    time.filter(|time| !time.is_zero() && *time <= Duration::from_secs(MAX_HOURS * 60 * 60))
        .ok_or_else(|| format!("expected a time such as 500ms, 30s or 5m, at most {MAX_HOURS}h"))
}

#[cfg(test)]
mod tests {
    use clap::{Arg, Args as _, Command, CommandFactory};

    use super::*;

    fn parse(args: &[&str]) -> Result<Args, Error> {
        Args::parse(std::iter::once("lab").chain(args.iter().copied()).map(Into::into))
    }

    #[test]
    fn invalid_addresses_are_all_named() {
        let error = parse(&["--service-a-addr", "x", "--service-b-addr=localhost:1"]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        for name in ["SERVICE_A_ADDR (--service-a-addr)", "SERVICE_B_ADDR (--service-b-addr)"] {
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn help_lists_addresses_with_defaults() {
        let help = parse(&["--help"]).unwrap_err().to_string();
        let command = Args::command();
        let addresses: Vec<_> =
            command.get_arguments().filter(|arg| arg.get_env().is_some()).collect();
        assert_eq!(addresses.len(), 5);
        for arg in addresses {
            let default = arg.get_default_values()[0].to_str().unwrap();
            assert!(help.contains(arg.get_long().unwrap()) && help.contains(default), "{help}");
        }
    }

    #[test]
    fn help_lists_settings_of_services() {
        // The lab sets these itself.
        const SET_BY_LAB: [&str; 3] = ["LISTEN_ADDR", "ADMIN_ADDR", "SERVICE_A_URL"];
        let services = [
            service_a::Args::augment_args(Command::new("service-a")),
            service_b::Args::augment_args(Command::new("service-b")),
        ];
        for name in services.iter().flat_map(Command::get_arguments).filter_map(Arg::get_env) {
            let name = name.to_str().unwrap();
            let is_listed = AFTER_HELP.split([',', ' ', '\n']).any(|word| word == name);
            assert_ne!(is_listed, SET_BY_LAB.contains(&name), "{name}");
        }
    }
}
