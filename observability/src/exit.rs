//! How a service's process ends: a message for a person and an exit code for a supervisor.

use std::fmt;
use std::io::Write;
use std::process::ExitCode;

/// Why a process ends before its time. Code 2 is a matter of settings, 1 anything else; `--help`
/// and `--version` end it with 0.
pub struct Exit {
    code: u8,
    message: String,
    usage: Option<clap::Error>,
}

impl Exit {
    /// A failure with exit code 1.
    pub fn failure(message: impl Into<String>) -> Self {
        Self { code: 1, message: message.into(), usage: None }
    }

    /// What was asked for is this text, for stdout; exit code 0.
    pub fn message(text: impl Into<String>) -> Self {
        Self { code: 0, message: text.into(), usage: None }
    }

    /// An end that is no failure, with exit code 0.
    pub(crate) fn success() -> Self {
        Self { code: 0, message: String::new(), usage: None }
    }

    /// What `clap` has to say: help and version end with 0, anything else with 2.
    pub fn usage(error: clap::Error) -> Self {
        let code = u8::try_from(error.exit_code()).unwrap_or(2);
        Self { code, message: error.to_string(), usage: Some(error) }
    }

    /// Every bad setting in one message, with exit code 2.
    pub fn bad_settings(service: &str, problems: &[String]) -> Self {
        let count = match problems.len() {
            1 => "a bad setting".to_owned(),
            n => format!("{n} bad settings"),
        };
        Self {
            code: 2,
            message: format!("{service}: {count}\n  {}", problems.join("\n  ")),
            usage: None,
        }
    }

    /// The exit code.
    pub fn code(&self) -> u8 {
        self.code
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Exit({}, {:?})", self.code, self.message)
    }
}

impl std::error::Error for Exit {}

impl From<reqwest::Error> for Exit {
    fn from(error: reqwest::Error) -> Self {
        Self::failure(format!(
            "http client: {}",
            crate::error_kind::error_chain(&error.without_url())
        ))
    }
}

/// Ends `main`: says what went wrong on stderr (help on stdout) and gives the exit code.
pub fn exit_code(result: Result<(), Exit>) -> ExitCode {
    let Err(exit) = result else {
        return ExitCode::SUCCESS;
    };
    // A closed stderr is no reason to end differently, so results of writing are passed over.
    if let Some(usage) = &exit.usage {
        let _ = usage.print();
    } else if exit.code == 0 {
        let _ = std::io::stdout().write_all(exit.message.as_bytes());
    } else {
        let _ = writeln!(std::io::stderr(), "{exit}");
    }
    ExitCode::from(exit.code)
}
