//! Command lines: flags and environment variables become settings.
//!
//! clap stops at the first invalid value and repeats it. A service is started by a supervisor, so one
//! message reports every invalid setting, and no value is repeated because it may be a secret.

use std::env;
use std::error::Error as _;
use std::ffi::{OsStr, OsString};

use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches, value_parser};

use crate::config::{Config, OtelConfig, ServiceInfo};
use crate::error::Error;
use crate::health_check::health_check;
use crate::telemetry_check::check_telemetry;

/// Returns the value of an environment variable.
type Lookup<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Parses a command line and the environment into the settings of a program that is not a service.
///
/// A flag takes precedence over its variable. An empty value counts as unset. Each argument needs a long
/// flag. Subcommands and flags that count are not supported.
///
/// # Errors
/// [`Error::Finished`] for `--help` and `--version`, [`Error::Usage`] for an unknown flag, and
/// [`Error::InvalidSettings`] with every invalid value.
pub fn parse<T: clap::Parser>(args: impl IntoIterator<Item = OsString>) -> Result<T, Error> {
    let matches = parse_command(T::command(), args, &|name| env::var_os(name), Vec::new())?;
    Ok(T::from_arg_matches(&matches)?)
}

impl ServiceInfo {
    /// Parses a command line and the environment into the settings of this service: [`Config`], or a
    /// struct that has it as a `#[command(flatten)]` field.
    ///
    /// A flag takes precedence over its variable. An empty value counts as unset. With `--health-check`
    /// the service that runs with the same settings is probed. With `--check-telemetry` a test span is exported.
    ///
    /// # Errors
    /// [`Error::Finished`] for `--help`, `--version` and a successful check,
    /// [`Error::NotReady`] for a failed one, [`Error::TelemetryCheck`] for a failed `--check-telemetry`,
    /// [`Error::Usage`] for an unknown flag, and
    /// [`Error::InvalidSettings`] with every invalid setting, `OTEL_*` variables included.
    pub fn parse<T: clap::Args>(
        &self,
        args: impl IntoIterator<Item = OsString>,
    ) -> Result<T, Error> {
        self.parse_from(args, &|name| env::var_os(name))
    }

    /// Parses the command line of the process and the environment like [`parse`](Self::parse). Ends the
    /// process if that fails, for a `main` that returns errors of another type.
    pub fn parse_or_exit<T: clap::Args>(&self) -> T {
        self.parse(env::args_os()).unwrap_or_else(|error| error.exit())
    }

    pub(crate) fn parse_from<T: clap::Args>(
        &self,
        args: impl IntoIterator<Item = OsString>,
        lookup: Lookup<'_>,
    ) -> Result<T, Error> {
        let otel = OtelConfig::read(lookup);
        let errors = otel.as_ref().err().cloned().unwrap_or_default();
        let matches = parse_command(self.command::<T>(), args, lookup, errors)?;
        if let Ok(otel) = otel
            && matches.get_flag(CHECK_TELEMETRY)
        {
            let config = Config::from_arg_matches(&matches)?;
            return Err(self.check_telemetry(&config, &otel));
        }
        if matches.get_flag(HEALTH_CHECK) {
            let config = Config::from_arg_matches(&matches)?;
            health_check(config.admin_routes_addr(), self.admin_prefix)?;
            return Err(Error::Finished(String::new()));
        }
        Ok(T::from_arg_matches(&matches)?)
    }

    /// Runs the check on another thread, because a runtime may run on this one.
    fn check_telemetry(&self, config: &Config, otel: &OtelConfig) -> Error {
        let check = || check_telemetry(self, config, otel, env::vars_os());
        match std::thread::scope(|scope| scope.spawn(check).join()) {
            Ok(Ok(report)) => Error::Finished(report),
            Ok(Err(report)) => Error::TelemetryCheck(report),
            Err(_) => Error::other("the check of the telemetry panicked"),
        }
    }

    fn command<T: clap::Args>(&self) -> Command {
        // `augment_args` sets the about text to the doc comment of `T`.
        T::augment_args(Command::new(self.name))
            .about((!self.description.is_empty()).then_some(self.description))
            .version(format!("{} (revision {})", self.version, self.revision))
            .after_help(OTEL_HELP)
            .mut_args(|arg| match arg.get_id().as_str() {
                "listen_addr" => arg.default_value(self.listen_addr),
                _ => arg,
            })
            .arg(Arg::new(HEALTH_CHECK).long(HEALTH_CHECK).action(ArgAction::SetTrue).help(
                "Probe the service that runs with these settings; exit code 0 if ready, 1 if not",
            ))
            .arg(Arg::new(CHECK_TELEMETRY).long(CHECK_TELEMETRY).action(ArgAction::SetTrue).help(
                "Check whether spans arrive with these settings; exit code 0 if they do, 1 if not",
            ))
    }
}

const HEALTH_CHECK: &str = "health-check";
const CHECK_TELEMETRY: &str = "check-telemetry";

const OTEL_HELP: &str = "\
Traces are exported if OTEL_EXPORTER_OTLP_ENDPOINT is set. These variables are read as OpenTelemetry specifies them:
  OTEL_EXPORTER_OTLP_ENDPOINT, _PROTOCOL (grpc, http/protobuf), _HEADERS, _TIMEOUT, _COMPRESSION,
  in a build with TLS _CERTIFICATE, and the same names after OTEL_EXPORTER_OTLP_TRACES
  OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_SDK_DISABLED, OTEL_TRACES_EXPORTER (otlp, none)
  OTEL_TRACES_SAMPLER, OTEL_TRACES_SAMPLER_ARG, OTEL_PROPAGATORS
  OTEL_BSP_SCHEDULE_DELAY, _MAX_QUEUE_SIZE, _MAX_EXPORT_BATCH_SIZE, _EXPORT_TIMEOUT
  OTEL_ATTRIBUTE_*_LIMIT, OTEL_SPAN_*_LIMIT, OTEL_EVENT_*_LIMIT, OTEL_LINK_*_LIMIT
  OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS";

/// Parses in two passes. The first accepts any bytes as a value; the second parses each value by itself,
/// so that one invalid value does not hide another. Invalid settings join `errors`.
fn parse_command(
    command: Command,
    args: impl IntoIterator<Item = OsString>,
    lookup: Lookup<'_>,
    mut errors: Vec<String>,
) -> Result<ArgMatches, Error> {
    let command = command.mut_args(|arg| arg.hide_env_values(true));
    let any_bytes = command.clone().mut_args(|arg| {
        if arg.get_action().takes_values() {
            arg.value_parser(value_parser!(OsString))
        } else {
            arg
        }
    });
    let given = any_bytes.try_get_matches_from(args)?;

    let mut words = vec![OsString::from(command.get_name())];
    for arg in command.get_arguments() {
        if !arg.get_action().takes_values() {
            if given.get_flag(arg.get_id().as_str()) {
                words.push(flag(arg));
            }
            continue;
        }
        for value in given_values(arg, &given, lookup) {
            let mut word = flag(arg);
            word.push("=");
            word.push(value);
            match check(arg, &word) {
                Ok(()) => words.push(word),
                Err(error) => errors.push(error),
            }
        }
    }
    if !errors.is_empty() {
        return Err(Error::InvalidSettings { program: command.get_name().to_owned(), errors });
    }
    let command = command.mut_args(|arg| arg.env(Resettable::<clap::builder::OsStr>::Reset));
    Ok(command.try_get_matches_from(words)?)
}

fn flag(arg: &Arg) -> OsString {
    format!("--{}", arg.get_long().unwrap_or_default()).into()
}

/// Returns the values from the command line, or else the one from the environment, without empty ones.
fn given_values(arg: &Arg, given: &ArgMatches, lookup: Lookup<'_>) -> Vec<OsString> {
    let id = arg.get_id().as_str();
    let mut values: Vec<OsString> = match given.value_source(id) {
        Some(ValueSource::CommandLine) => {
            given.get_raw(id).into_iter().flatten().map(OsStr::to_owned).collect()
        }
        _ => arg.get_env().and_then(OsStr::to_str).and_then(lookup).into_iter().collect(),
    };
    values.retain(|value| !value.is_empty());
    values
}

/// Parses one argument by itself and describes its error without the value.
fn check(arg: &Arg, word: &OsStr) -> Result<(), String> {
    // Without `requires` and `conflicts_with`, which name arguments that this command does not have.
    let value = Arg::new(arg.get_id().clone())
        .long(arg.get_long().unwrap_or_default().to_owned())
        .action(arg.get_action().clone())
        .value_delimiter(arg.get_value_delimiter())
        .value_parser(arg.get_value_parser().clone());
    let alone = Command::new("").no_binary_name(true).arg(value);
    let Err(error) = alone.try_get_matches_from([word]) else {
        return Ok(());
    };
    let reason = match (error.kind(), error.source(), error.get(ContextKind::ValidValue)) {
        (ErrorKind::InvalidUtf8, ..) => "not valid UTF-8".to_owned(),
        (_, Some(source), _) => source.to_string(),
        (_, _, Some(ContextValue::Strings(valid))) => format!("expected {}", valid.join(" or ")),
        _ => "not a valid value".to_owned(),
    };
    let flag = flag(arg);
    let flag = flag.to_string_lossy();
    Err(match arg.get_env() {
        Some(variable) => format!("{} ({flag}): {reason}", variable.to_string_lossy()),
        None => format!("{flag}: {reason}"),
    })
}

#[cfg(test)]
mod tests;
