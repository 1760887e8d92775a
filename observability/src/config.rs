//! Settings: a flag and a variable each, read once at the start, every bad one named at once.
//!
//! The flow is one way: command line and environment → [`Reader`] → [`Config`]. Tests put a map in
//! place of the process: [`Reader::from_lookup`].

use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::str::FromStr;
use std::time::Duration;

use tracing_subscriber::filter::Targets;

use crate::exit::Exit;
use crate::log::LogFormat;
use crate::otel::OtelConfig;

/// What a service is called, and which build of it this is.
#[derive(Debug, Clone, Copy)]
pub struct ServiceInfo {
    /// `service.name` in traces unless `OTEL_SERVICE_NAME` says otherwise, and the command's name.
    pub name: &'static str,
    /// The `service` field of its log lines.
    pub log_label: &'static str,
    /// What `--help` says it is for.
    pub description: &'static str,
    /// Version of the build.
    pub version: &'static str,
    /// Revision of the source it was built from, or `unknown`.
    pub revision: &'static str,
    /// Where it listens unless told otherwise.
    pub listen_addr: &'static str,
}

/// One setting: a flag, a variable, and what `--help` says of it.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Environment variable; the flag is the same word in lower case with dashes.
    pub variable: &'static str,
    /// The kind of value, as `--help` shows it.
    pub value: &'static str,
    /// What holds where nothing is set; `--help` shows it.
    pub default: Option<&'static str>,
    /// One line of help.
    pub help: &'static str,
}

impl Setting {
    /// The flag without its dashes: `listen-addr` for `LISTEN_ADDR`.
    pub fn flag(&self) -> String {
        self.variable.to_ascii_lowercase().replace('_', "-")
    }
}

/// Where a service listens for requests.
pub const LISTEN_ADDR: Setting = Setting {
    variable: "LISTEN_ADDR",
    value: "IP:PORT",
    default: None,
    help: "Address to listen on; port 0 takes a free one, named in the first log line",
};
/// Where probes and metrics are served, if not beside the API.
pub const ADMIN_ADDR: Setting = Setting {
    variable: "ADMIN_ADDR",
    value: "IP:PORT",
    default: None,
    help: "Serve /metrics, the probes and other admin routes on an address of their own",
};
/// The most that stopping may take.
pub const SHUTDOWN_TIMEOUT_MS: Setting = Setting {
    variable: "SHUTDOWN_TIMEOUT_MS",
    value: "MS",
    default: Some("10000"),
    help: "Bound on the whole of stopping, from the signal to the exit",
};
/// How long a stopping service goes on taking work.
pub const DRAIN_DELAY_MS: Setting = Setting {
    variable: "DRAIN_DELAY_MS",
    value: "MS",
    default: Some("0"),
    help: "After a stop signal, go on taking work this long while /readyz says 503",
};
/// How many requests are served at a time.
pub const MAX_CONCURRENT_REQUESTS: Setting = Setting {
    variable: "MAX_CONCURRENT_REQUESTS",
    value: "N",
    default: Some("512"),
    help: "Requests served at a time; what is more is answered 503, error `overload`, at once",
};
/// How long a connection may keep its server waiting.
pub const IDLE_TIMEOUT_MS: Setting = Setting {
    variable: "IDLE_TIMEOUT_MS",
    value: "MS",
    default: Some("10000"),
    help: "Close connections that take longer to send a head, to take an answer, or between requests",
};
/// How log lines are written.
pub const LOG_FORMAT: Setting = Setting {
    variable: "LOG_FORMAT",
    value: "FORMAT",
    default: Some("logfmt"),
    help: "Log lines as logfmt or json",
};
/// Which log lines are written.
pub const RUST_LOG: Setting = Setting {
    variable: "RUST_LOG",
    value: "FILTER",
    default: Some("info"),
    help: "Log filter, as in info,access=warn; `access` are the lines of requests",
};

const COMMON: [Setting; 8] = [
    LISTEN_ADDR,
    ADMIN_ADDR,
    SHUTDOWN_TIMEOUT_MS,
    DRAIN_DELAY_MS,
    MAX_CONCURRENT_REQUESTS,
    IDLE_TIMEOUT_MS,
    LOG_FORMAT,
    RUST_LOG,
];

/// The longest duration a setting takes: a day.
const MAX_MS: u64 = 24 * 60 * 60 * 1000;

/// What every service can be told.
#[derive(Debug, Clone)]
pub struct Config {
    /// Who this is.
    pub service: ServiceInfo,
    /// [`LISTEN_ADDR`]
    pub listen_addr: SocketAddr,
    /// [`ADMIN_ADDR`]
    pub admin_addr: Option<SocketAddr>,
    /// [`SHUTDOWN_TIMEOUT_MS`]
    pub shutdown_timeout: Duration,
    /// [`DRAIN_DELAY_MS`]
    pub drain_delay: Duration,
    /// [`MAX_CONCURRENT_REQUESTS`]
    pub max_concurrent_requests: NonZeroUsize,
    /// [`IDLE_TIMEOUT_MS`]
    pub idle_timeout: Duration,
    /// [`LOG_FORMAT`]
    pub log_format: LogFormat,
    /// [`RUST_LOG`]
    pub log_filter: Targets,
    /// The `OTEL_*` variables.
    pub otel: OtelConfig,
}

impl Config {
    /// Reads the settings of a service that has none of its own from command line and environment.
    /// `--help`, `--version` and `--health-check` do their work and end the process.
    pub fn from_process(service: ServiceInfo) -> Result<Self, Exit> {
        Reader::from_process(service, &[])?.finish(|_| ()).map(|(config, ())| config)
    }

    /// As [`from_process`](Self::from_process), from a lookup of variables.
    pub fn from_lookup(
        service: ServiceInfo,
        lookup: impl Fn(&str) -> Option<OsString> + 'static,
    ) -> Result<Self, Exit> {
        Reader::from_lookup(service, lookup).finish(|_| ()).map(|(config, ())| config)
    }

    fn read(service: ServiceInfo, reader: &mut Reader) -> Self {
        let listen = Setting { default: Some(service.listen_addr), ..LISTEN_ADDR };
        let fallback = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            service,
            listen_addr: reader.read(&listen).unwrap_or(fallback),
            admin_addr: reader.read(&ADMIN_ADDR),
            shutdown_timeout: reader.milliseconds(&SHUTDOWN_TIMEOUT_MS, 0),
            drain_delay: reader.milliseconds(&DRAIN_DELAY_MS, 0),
            max_concurrent_requests: reader
                .read(&MAX_CONCURRENT_REQUESTS)
                .unwrap_or(NonZeroUsize::MAX),
            idle_timeout: reader.milliseconds(&IDLE_TIMEOUT_MS, 1),
            log_format: reader.read(&LOG_FORMAT).unwrap_or_default(),
            log_filter: reader.read(&RUST_LOG).unwrap_or_default(),
            otel: OtelConfig::read(reader),
        }
    }
}

type Lookup = Box<dyn Fn(&str) -> Option<OsString>>;

/// Reads settings and remembers what was wrong with them.
pub struct Reader {
    service: ServiceInfo,
    lookup: Lookup,
    problems: Vec<String>,
    health_check: bool,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("problems", &self.problems).finish_non_exhaustive()
    }
}

impl Reader {
    /// Parses the process's command line; a flag comes before its variable. `own` are the service's
    /// own settings beside the common ones. `--help` and `--version` end the process.
    pub fn from_process(service: ServiceInfo, own: &[Setting]) -> Result<Self, Exit> {
        Self::from_args(service, own, std::env::args_os())
    }

    /// As [`from_process`](Self::from_process), with the words of the command line given.
    pub fn from_args(
        service: ServiceInfo,
        own: &[Setting],
        args: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    ) -> Result<Self, Exit> {
        let matches = command(service, own).try_get_matches_from(args).map_err(Exit::usage)?;
        let health_check = matches.get_flag(HEALTH_CHECK);
        let settings = COMMON.iter().chain(own).map(|setting| setting.variable);
        let values: std::collections::HashMap<_, _> = settings
            .filter_map(|variable| Some((variable, matches.get_one::<OsString>(variable)?.clone())))
            .collect();
        let lookup = move |variable: &str| match values.get(variable) {
            Some(value) => Some(value.clone()),
            // The OTEL_* variables have no flags.
            None => std::env::var_os(variable),
        };
        Ok(Self { health_check, ..Self::from_lookup(service, lookup) })
    }

    /// Reads from `lookup`, which is given the name of a variable.
    pub fn from_lookup(
        service: ServiceInfo,
        lookup: impl Fn(&str) -> Option<OsString> + 'static,
    ) -> Self {
        Self { service, lookup: Box::new(lookup), problems: Vec::new(), health_check: false }
    }

    /// The value of a setting, or its default; `None` where neither is there or the value is bad.
    /// Empty counts as not set.
    pub fn read<T: FromStr<Err: fmt::Display>>(&mut self, setting: &Setting) -> Option<T> {
        self.read_with(setting, |text| text.parse().map_err(|error: T::Err| error.to_string()))
    }

    /// As [`read`](Self::read), with a parser of one's own. What it says of a bad value is shown to
    /// a person beside the setting's name.
    pub fn read_with<T>(
        &mut self,
        setting: &Setting,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = match self.text(setting.variable) {
            Some(text) => text,
            None => setting.default?.to_owned(),
        };
        match parse(&text) {
            Ok(value) => Some(value),
            Err(problem) => {
                self.problem(setting, &problem);
                None
            }
        }
    }

    /// A duration in whole milliseconds, at least `least` of them and at most a day.
    pub fn milliseconds(&mut self, setting: &Setting, least: u64) -> Duration {
        let range = || format!("expected a whole number of milliseconds from {least} to {MAX_MS}");
        let ms = self.read_with(setting, |text| match text.parse() {
            Ok(ms) if (least..=MAX_MS).contains(&ms) => Ok(ms),
            _ => Err(range()),
        });
        Duration::from_millis(ms.unwrap_or_default())
    }

    /// Notes that a setting's value will not do. Values are not repeated: one may be a secret.
    pub fn problem(&mut self, setting: &Setting, problem: &str) {
        self.problems.push(format!("{} (--{}): {problem}", setting.variable, setting.flag()));
    }

    /// A variable that has no flag; empty counts as not set.
    pub(crate) fn text(&mut self, variable: &str) -> Option<String> {
        match (self.lookup)(variable)?.into_string() {
            Ok(text) if text.is_empty() => None,
            Ok(text) => Some(text),
            Err(_) => {
                self.problems.push(format!("{variable}: not valid UTF-8"));
                None
            }
        }
    }

    /// Notes a bad value of a variable that has no flag.
    pub(crate) fn variable_problem(&mut self, variable: &str, problem: &str) {
        self.problems.push(format!("{variable}: {problem}"));
    }

    /// Reads the common settings and, by `own`, the service's; gives both, or every problem.
    pub fn finish<T>(mut self, own: impl FnOnce(&mut Self) -> T) -> Result<(Config, T), Exit> {
        let config = Config::read(self.service, &mut self);
        let own = own(&mut self);
        if !self.problems.is_empty() {
            return Err(Exit::bad_settings(self.service.name, &self.problems));
        }
        if self.health_check {
            return Err(crate::serve::health_check(&config));
        }
        Ok((config, own))
    }
}

const HEALTH_CHECK: &str = "health-check";

fn command(service: ServiceInfo, own: &[Setting]) -> clap::Command {
    let listen = Setting { default: Some(service.listen_addr), ..LISTEN_ADDR };
    let common = std::iter::once(listen).chain(COMMON.into_iter().skip(1));
    let (listening, common): (Vec<_>, Vec<_>) =
        common.partition(|setting| setting.variable.ends_with("_ADDR"));
    let arg = |setting: Setting| {
        let help = match setting.default {
            Some(default) => format!("{} [default: {default}]", setting.help),
            None => setting.help.to_owned(),
        };
        let arg = clap::Arg::new(setting.variable)
            .long(setting.flag())
            .env(setting.variable)
            .hide_env_values(true)
            .value_name(setting.value)
            .value_parser(clap::value_parser!(OsString))
            .help(help);
        if setting.value == SWITCH {
            arg.num_args(0..=1).default_missing_value("true")
        } else {
            arg
        }
    };
    clap::Command::new(service.name)
        .about(service.description)
        .version(format!("{} (revision {})", service.version, service.revision))
        .args(listening.into_iter().map(arg))
        .args(own.iter().copied().map(arg))
        .args(common.into_iter().map(arg))
        .arg(
            clap::Arg::new(HEALTH_CHECK).long(HEALTH_CHECK).action(clap::ArgAction::SetTrue).help(
                "Ask the service running with these settings whether it is ready; exit 0 or 1",
            ),
        )
        .after_help(OTEL_HELP)
}

/// [`Setting::value`] of a setting that is on or off; its flag alone means on.
pub const SWITCH: &str = "true|false";

const OTEL_HELP: &str = "\
Traces are exported where OTEL_EXPORTER_OTLP_ENDPOINT is set. Read as OpenTelemetry specifies them:
  OTEL_EXPORTER_OTLP_ENDPOINT, _PROTOCOL (grpc, http/protobuf), _HEADERS, _TIMEOUT, _COMPRESSION,
  and in a build with TLS OTEL_EXPORTER_OTLP_CERTIFICATE
  OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_SDK_DISABLED, OTEL_TRACES_EXPORTER (otlp, none)
  OTEL_TRACES_SAMPLER, OTEL_TRACES_SAMPLER_ARG
  OTEL_BSP_SCHEDULE_DELAY, _MAX_QUEUE_SIZE, _MAX_EXPORT_BATCH_SIZE, _EXPORT_TIMEOUT";

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: ServiceInfo = ServiceInfo {
        name: "service-t",
        log_label: "T",
        description: "A test",
        version: "1.0.0",
        revision: "unknown",
        listen_addr: "127.0.0.1:8080",
    };
    const SPEED: Setting =
        Setting { variable: "SPEED", value: "N", default: Some("3"), help: "How fast" };

    fn lookup(pairs: &'static [(&str, &str)]) -> impl Fn(&str) -> Option<OsString> {
        |name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).into())
    }

    #[test]
    fn without_settings_the_defaults_hold() {
        let config = Config::from_lookup(SERVICE, lookup(&[])).unwrap();
        assert_eq!(config.listen_addr, "127.0.0.1:8080".parse().unwrap());
        assert_eq!(config.admin_addr, None);
        assert_eq!(config.shutdown_timeout, Duration::from_secs(10));
        assert_eq!(config.drain_delay, Duration::ZERO);
        assert_eq!(config.log_format, LogFormat::Logfmt);
    }

    #[test]
    fn every_bad_setting_is_named_at_once() {
        let reader = Reader::from_lookup(
            SERVICE,
            lookup(&[
                ("LISTEN_ADDR", "localhost"),
                ("SHUTDOWN_TIMEOUT_MS", "-1"),
                ("DRAIN_DELAY_MS", "99999999999"),
                ("LOG_FORMAT", "xml"),
                ("RUST_LOG", "=="),
                ("SPEED", "fast"),
            ]),
        );
        let error = reader.finish(|reader| reader.read::<u8>(&SPEED)).unwrap_err();
        assert_eq!(error.code(), 2);
        let message = error.to_string();
        for name in [
            "LISTEN_ADDR (--listen-addr)",
            "SHUTDOWN_TIMEOUT_MS",
            "DRAIN_DELAY_MS",
            "LOG_FORMAT",
            "RUST_LOG",
            "SPEED (--speed)",
        ] {
            assert!(message.contains(name), "no {name} in {message}");
        }
        assert!(!message.contains("fast"), "the value itself is repeated: {message}");
    }

    #[cfg(unix)]
    #[test]
    fn a_value_that_is_no_text_is_named() {
        use std::os::unix::ffi::OsStringExt;
        let lookup = |name: &str| (name == "LOG_FORMAT").then(|| OsString::from_vec(vec![0xff]));
        let error = Config::from_lookup(SERVICE, lookup).unwrap_err();
        assert!(error.to_string().contains("LOG_FORMAT: not valid UTF-8"), "{error}");
    }

    #[test]
    fn flags_are_parsed() {
        let read =
            |args: &'static [&str]| Reader::from_args(SERVICE, &[SPEED], args.iter().copied());
        let reader = read(&["t", "--speed", "7", "--listen-addr=[::1]:0"]).unwrap();
        let (config, speed) = reader.finish(|reader| reader.read::<u8>(&SPEED)).unwrap();
        assert_eq!((speed, config.listen_addr.port()), (Some(7), 0));
        assert_eq!(read(&["t", "--sped", "7"]).unwrap_err().code(), 2);
        assert_eq!(read(&["t", "--help"]).unwrap_err().code(), 0);
    }

    #[test]
    fn help_lists_defaults() {
        let help = Reader::from_args(SERVICE, &[SPEED], ["t", "--help"]).unwrap_err().to_string();
        for setting in COMMON.iter().chain(&[SPEED]) {
            assert!(help.contains(&format!("--{}", setting.flag())), "{help}");
            assert!(help.contains(setting.variable), "{help}");
        }
        assert!(help.contains("[default: 127.0.0.1:8080]"), "{help}");
    }
}
