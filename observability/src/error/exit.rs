//! Errors that end a service's process, and the exit code of each.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Write};
use std::process::{self, ExitCode};

use tower::BoxError;

use super::error_chain;

/// Reason for the end of a process, returned by a service's `main`.
///
/// [`run`](crate::run) prints the error with its causes and exits with [`exit_code`](Self::exit_code). A
/// `main` that returns the error prints the same text after `Error: ` and exits with code 1, because `Debug`
/// writes that text.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The process has done what its command line requests, such as `--help`. Holds the text for stdout.
    #[error("{0}")]
    Finished(String),
    /// The command line has an unknown or incomplete flag.
    #[error("{0}")]
    Usage(String),
    /// Settings are invalid. Each message names the variable and flag, and does not repeat the value.
    #[error("{program}: {}\n  {}", count_settings(errors), errors.join("\n  "))]
    InvalidSettings {
        /// Name of the program.
        program: String,
        /// One message for each invalid setting.
        errors: Vec<String>,
    },
    /// The listener cannot be bound, for example because the port is in use.
    #[error("cannot listen on {address}")]
    Listen {
        /// Address of the listener.
        address: String,
        /// Error of the operating system.
        source: io::Error,
    },
    /// A part of the telemetry cannot be started.
    #[error("cannot start telemetry: {component}")]
    Telemetry {
        /// Name of the part.
        component: &'static str,
        /// Cause of the failure.
        source: BoxError,
    },
    /// The process already has a `tracing` subscriber, because [`init`](crate::init) was called twice or
    /// the program installs one itself.
    #[error(
        "cannot start telemetry: this process already has a tracing subscriber; call `init` once and \
         clone its result, or use `Telemetry::start` and add its `tracing_layer` to the subscriber"
    )]
    AlreadyInitialized,
    /// The HTTP client cannot be built, for example because TLS roots do not load.
    #[error("cannot build the HTTP client")]
    Client(#[source] reqwest::Error),
    /// The service that `--health-check` probes is not ready.
    #[error("{address} is not ready: {details}")]
    NotReady {
        /// Address of the probed service.
        address: String,
        /// Status line of the response, or the error of the connection.
        details: String,
    },
    /// `--check-telemetry` has found something wrong. Holds the report for stdout.
    #[error("{0}")]
    TelemetryCheck(String),
    /// Any other failure.
    #[error(transparent)]
    Other(BoxError),
}

impl Error {
    /// Creates a failure with exit code 1.
    pub fn other(error: impl Into<BoxError>) -> Self {
        Self::Other(error.into())
    }

    /// Returns the exit code: 0 for [`Finished`](Self::Finished), 2 for an invalid command line or
    /// setting, 1 otherwise.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Finished(_) => 0,
            Self::Usage(_) | Self::InvalidSettings { .. } => 2,
            _ => 1,
        }
    }

    /// Prints the error, on stdout if it is a text for the user and on stderr otherwise, and ends
    /// the process with [`exit_code`](Self::exit_code).
    pub fn exit(&self) -> ! {
        self.print();
        process::exit(i32::from(self.exit_code()))
    }

    fn print(&self) {
        // A closed stdout or stderr does not change the exit code.
        let _ = match self {
            Self::Finished(text) | Self::TelemetryCheck(text) => {
                io::stdout().write_all(text.as_bytes())
            }
            error => writeln!(io::stderr(), "{error:?}"),
        };
    }

    pub(crate) fn telemetry(component: &'static str, source: impl Into<BoxError>) -> Self {
        Self::Telemetry { component, source: source.into() }
    }
}

/// Writes the message and its causes, which a `main` that returns the error prints.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(error_chain(self).trim_end())
    }
}

impl From<clap::Error> for Error {
    /// Help and version become [`Finished`](Self::Finished), anything else [`Usage`](Self::Usage).
    fn from(error: clap::Error) -> Self {
        if error.use_stderr() {
            Self::Usage(error.to_string())
        } else {
            Self::Finished(error.to_string())
        }
    }
}

impl From<reqwest::Error> for Error {
    fn from(error: reqwest::Error) -> Self {
        Self::Client(error.without_url())
    }
}

fn count_settings(errors: &[String]) -> Cow<'static, str> {
    match errors.len() {
        1 => "1 invalid setting".into(),
        count => format!("{count} invalid settings").into(),
    }
}

/// Prints `result`'s error as [`Error::exit`] does, and returns its exit code.
pub fn exit_code(result: Result<(), Error>) -> ExitCode {
    let Err(error) = result else {
        return ExitCode::SUCCESS;
    };
    error.print();
    ExitCode::from(error.exit_code())
}
