//! The lab's ports. What the services can be told beside them reaches them through the environment.

use std::ffi::OsString;
use std::net::SocketAddr;

use clap::{Arg, ArgMatches, Command};
use observability::Error;

/// Where the parts of the system listen.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) service_a: SocketAddr,
    pub(crate) service_b: SocketAddr,
    pub(crate) jaeger: embedded_jaeger::JaegerConfig,
}

struct Port {
    variable: &'static str,
    default: &'static str,
    help: &'static str,
}

const SERVICE_A: Port =
    Port { variable: "SERVICE_A_ADDR", default: "127.0.0.1:8080", help: "Where service A listens" };
const SERVICE_B: Port =
    Port { variable: "SERVICE_B_ADDR", default: "127.0.0.1:8081", help: "Where service B listens" };
const JAEGER_UI: Port = Port {
    variable: "JAEGER_UI_ADDR",
    default: "127.0.0.1:16686",
    help: "Where the Jaeger UI and its query API listen",
};
const OTLP_GRPC: Port = Port {
    variable: "OTLP_GRPC_ADDR",
    default: "127.0.0.1:4317",
    help: "Where Jaeger takes spans over gRPC",
};
const OTLP_HTTP: Port = Port {
    variable: "OTLP_HTTP_ADDR",
    default: "127.0.0.1:4318",
    help: "Where Jaeger takes spans over http/protobuf",
};
const PORTS: [Port; 5] = [SERVICE_A, SERVICE_B, JAEGER_UI, OTLP_GRPC, OTLP_HTTP];

impl Settings {
    /// Reads them from the words of a command line and the environment; names every bad one.
    pub(crate) fn from_args(args: impl IntoIterator<Item = OsString>) -> Result<Self, Error> {
        let matches = command().try_get_matches_from(args).map_err(Error::from)?;
        if matches.get_flag(LICENSES) {
            return Err(Error::Finished(embedded_jaeger::LICENSES.to_owned()));
        }
        let mut problems = Vec::new();
        let mut address = |port: &Port| read(&matches, port, &mut problems);
        let settings = Self {
            service_a: address(&SERVICE_A),
            service_b: address(&SERVICE_B),
            jaeger: embedded_jaeger::JaegerConfig {
                ui: address(&JAEGER_UI),
                otlp_grpc: address(&OTLP_GRPC),
                otlp_http: address(&OTLP_HTTP),
                ..Default::default()
            },
        };
        if problems.is_empty() {
            Ok(settings)
        } else {
            Err(Error::InvalidSettings { program: "lab".to_owned(), errors: problems })
        }
    }
}

fn read(matches: &ArgMatches, port: &Port, problems: &mut Vec<String>) -> SocketAddr {
    let value = matches.get_one::<OsString>(port.variable);
    let parsed = value.and_then(|value| value.to_str()).map(str::parse);
    if let Some(Ok(address)) = parsed {
        return address;
    }
    problems.push(format!(
        "{} (--{}): expected IP:PORT, such as {}",
        port.variable,
        flag(port),
        port.default
    ));
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn flag(port: &Port) -> String {
    port.variable.to_ascii_lowercase().replace('_', "-")
}

const LICENSES: &str = "licenses";

fn command() -> Command {
    let arg = |port: &Port| {
        Arg::new(port.variable)
            .long(flag(port))
            .env(port.variable)
            .hide_env_values(true)
            .value_name("IP:PORT")
            .value_parser(clap::value_parser!(OsString))
            .default_value(port.default)
            .help(port.help)
    };
    Command::new("lab")
        .about("Service A, service B and a Jaeger on this machine; port 0 takes a free one")
        .version(env!("CARGO_PKG_VERSION"))
        .args(PORTS.iter().map(arg))
        .arg(
            Arg::new(LICENSES)
                .long(LICENSES)
                .action(clap::ArgAction::SetTrue)
                .help("Print the licence of the Jaeger UI that is part of this binary"),
        )
        .after_help(AFTER_HELP)
}

const AFTER_HELP: &str = "\
Keys, on a terminal: a stops and starts A, b does so with B, t shows the traces of the slowest request
and of the last failed one of each kind, q or Ctrl-C ends it all.

Traces go to a Jaeger of the lab's own, in memory. With OTEL_EXPORTER_OTLP_ENDPOINT set they go
there, and the lab starts no Jaeger. `lab jaeger` starts the Jaeger alone.

`lab load` sends B a steady load and says how it went; see `lab load --help`.

The services read the other settings from the environment (cargo run -p service-b -- --help):
  SERVICE_A_TIMEOUT_MS, SERVICE_A_CONNECT_RETRIES, SERVICE_A_BREAKER_FAILURES,
  MAX_CONCURRENT_REQUESTS, IDLE_TIMEOUT_MS, SHUTDOWN_TIMEOUT_MS, DRAIN_DELAY_MS,
  LOG_FORMAT, RUST_LOG, OTEL_*";

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &[&str]) -> Result<Settings, Error> {
        Settings::from_args(std::iter::once("lab").chain(args.iter().copied()).map(Into::into))
    }

    #[test]
    fn every_bad_address_is_named() {
        let error = read(&["--service-a-addr", "x", "--service-b-addr=localhost:1"]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        for name in ["SERVICE_A_ADDR (--service-a-addr)", "SERVICE_B_ADDR (--service-b-addr)"] {
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn help_names_every_port_with_its_default() {
        let help = read(&["--help"]).unwrap_err().to_string();
        for port in PORTS {
            assert!(help.contains(&flag(&port)) && help.contains(port.default), "{help}");
        }
    }
}
