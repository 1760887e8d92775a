//! The settings of `lab load`: a flag and a variable each, every bad one named at once.

use std::ffi::OsString;
use std::time::Duration;

use clap::{Arg, ArgMatches, Command};
use observability::Error;
use reqwest::Url;

/// What to send where.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) target: Url,
    /// Requests per second.
    pub(crate) rate: f64,
    /// `None`: until stopped.
    pub(crate) duration: Option<Duration>,
    pub(crate) timeout: Duration,
    pub(crate) max_in_flight: usize,
    /// Where A's faults are switched; `None` leaves them alone.
    pub(crate) service_a: Option<Url>,
}

/// One setting: its variable, flag and help.
struct Setting {
    variable: &'static str,
    value: &'static str,
    default: Option<&'static str>,
    help: &'static str,
}

impl Setting {
    fn flag(&self) -> String {
        self.variable.to_ascii_lowercase().replace('_', "-")
    }
}

const TARGET: Setting = Setting {
    variable: "LOAD_TARGET",
    value: "URL",
    default: Some("http://127.0.0.1:8081"),
    help: "Base URL of service B",
};
const RATE: Setting = Setting {
    variable: "LOAD_RATE",
    value: "N",
    default: Some("50"),
    help: "Requests per second, a fraction too",
};
const DURATION: Setting = Setting {
    variable: "LOAD_DURATION",
    value: "TIME",
    default: Some(UNTIL_STOPPED),
    help: "How long to send, such as 30s or 5m",
};
const TIMEOUT: Setting = Setting {
    variable: "LOAD_TIMEOUT",
    value: "TIME",
    default: Some("5s"),
    help: "Time budget of a request in all: connect, headers and body",
};
const MAX_IN_FLIGHT: Setting = Setting {
    variable: "LOAD_MAX_IN_FLIGHT",
    value: "N",
    default: Some("500"),
    help: "Bound on the requests without an answer; what is due beyond it is counted, not sent",
};
const SERVICE_A: Setting = Setting {
    variable: "LOAD_SERVICE_A",
    value: "URL",
    default: None,
    help: "Break A for short phases meanwhile: base URL of A's /faults, on its admin address \
           where it has one",
};
const ALL: [Setting; 6] = [TARGET, RATE, DURATION, TIMEOUT, MAX_IN_FLIGHT, SERVICE_A];

/// [`DURATION`] without an end.
const UNTIL_STOPPED: &str = "until-stopped";

/// Requests per second that one process and one target can be meant for.
const MAX_RATE: f64 = 100_000.0;
/// The least is one request in a thousand seconds.
const MIN_RATE: f64 = 0.001;
/// The longest duration: a year of seconds.
const MAX_DURATION: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// The longest time budget of a request; also the longest latency that is told apart.
pub(crate) const MAX_TIMEOUT: Duration = Duration::from_secs(60 * 60);
/// As many connections as a port range has room for.
const MAX_MAX_IN_FLIGHT: usize = 60_000;

impl Settings {
    /// Reads them from the words of a command line and the environment; names every bad one.
    pub(crate) fn from_args(args: impl IntoIterator<Item = OsString>) -> Result<Self, Error> {
        let matches = command().try_get_matches_from(args).map_err(Error::from)?;
        let mut reader = Reader { matches, problems: Vec::new() };
        let target = reader.read(&TARGET, url);
        let rate = reader.read(&RATE, rate);
        let duration = reader.read(&DURATION, duration);
        let timeout = reader.read(&TIMEOUT, timeout);
        let max_in_flight = reader.read(&MAX_IN_FLIGHT, max_in_flight);
        let service_a = reader.read(&SERVICE_A, url);
        match (target, rate, duration, timeout, max_in_flight) {
            (Some(target), Some(rate), Some(duration), Some(timeout), Some(max_in_flight))
                if reader.problems.is_empty() =>
            {
                Ok(Self { target, rate, duration, timeout, max_in_flight, service_a })
            }
            _ => Err(Error::InvalidSettings {
                program: "lab load".to_owned(),
                errors: reader.problems,
            }),
        }
    }
}

struct Reader {
    matches: ArgMatches,
    problems: Vec<String>,
}

impl Reader {
    /// The value or its default; empty counts as not set. Values are not repeated to the user: a URL
    /// may hold a password.
    fn read<T>(&mut self, setting: &Setting, parse: fn(&str) -> Result<T, String>) -> Option<T> {
        let given = self.matches.get_one::<OsString>(setting.variable);
        let parsed = match given.filter(|value| !value.is_empty()) {
            Some(value) => value.to_str().ok_or_else(|| "not valid UTF-8".into()).and_then(parse),
            None => parse(setting.default?),
        };
        parsed
            .map_err(|problem| {
                let name = format!("{} (--{})", setting.variable, flag(setting));
                self.problems.push(format!("{name}: {problem}"));
            })
            .ok()
    }
}

fn url(text: &str) -> Result<Url, String> {
    match Url::parse(text) {
        Ok(url) if url.scheme() == "http" && url.has_host() => Ok(url),
        Ok(url) if url.scheme() == "https" => Err("https is not built in, only http".to_owned()),
        _ => Err("expected a URL such as http://127.0.0.1:8081".to_owned()),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (MIN_RATE..=MAX_RATE).contains(&rate) => Ok(rate),
        _ => Err(format!("expected requests per second, from {MIN_RATE} to {MAX_RATE}")),
    }
}

fn duration(text: &str) -> Result<Option<Duration>, String> {
    if text == UNTIL_STOPPED {
        return Ok(None);
    }
    match humantime::parse_duration(text) {
        Ok(duration) if !duration.is_zero() && duration <= MAX_DURATION => Ok(Some(duration)),
        _ => Err(format!("expected a time such as 30s or 5m, at most a year, or {UNTIL_STOPPED}")),
    }
}

fn timeout(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(timeout) if !timeout.is_zero() && timeout <= MAX_TIMEOUT => Ok(timeout),
        _ => Err("expected a time such as 500ms or 5s, at most an hour".to_owned()),
    }
}

fn max_in_flight(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(bound @ 1..=MAX_MAX_IN_FLIGHT) => Ok(bound),
        _ => Err(format!("expected a whole number from 1 to {MAX_MAX_IN_FLIGHT}")),
    }
}

/// `rate` for `LOAD_RATE`.
fn flag(setting: &Setting) -> String {
    setting.flag().trim_start_matches("load-").to_owned()
}

fn command() -> Command {
    let arg = |setting: &Setting| {
        let help = match setting.default {
            Some(default) => format!("{} [default: {default}]", setting.help),
            None => setting.help.to_owned(),
        };
        Arg::new(setting.variable)
            .long(flag(setting))
            .env(setting.variable)
            .hide_env_values(true)
            .value_name(setting.value)
            .value_parser(clap::value_parser!(OsString))
            .help(help)
    };
    Command::new("lab load")
        .about("Requests GET /call-echo of service B at a constant rate and says how that went")
        .version(env!("CARGO_PKG_VERSION"))
        .args(ALL.iter().map(arg))
        .after_help(format!("{AFTER_HELP}{}", super::faults::help()))
}

// A paragraph is one line: clap wraps it to the terminal.
const AFTER_HELP: &str = "\
The clock does not wait for answers (open loop), and a latency counts from the moment the request was \
due: a server that stalls is seen as slow for all the time it stalls.

Progress goes to stderr, the report to stdout: requests, rate, latency quantiles, and the outcomes by \
error kind, as B names them. What went wrong between here and B itself is marked `B:`.

SIGTERM or SIGINT ends it in order: requests in flight are waited for (a second signal cuts them off) \
and the report is written. Error code 0, 1 where B never answered, 2 for invalid settings.

";

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &[&str]) -> Result<Settings, Error> {
        Settings::from_args(std::iter::once("lab load").chain(args.iter().copied()).map(Into::into))
    }

    #[test]
    fn defaults_and_empty_values() {
        for args in [&[][..], &["--rate=", "--duration=", "--service-a="]] {
            let settings = read(args).unwrap();
            assert_eq!(settings.target.as_str(), "http://127.0.0.1:8081/");
            assert_eq!((settings.rate, settings.duration), (50.0, None));
            assert_eq!(settings.timeout, Duration::from_secs(5));
            assert_eq!((settings.max_in_flight, settings.service_a), (500, None));
        }
    }

    #[test]
    fn values_are_read() {
        let settings =
            read(&["--rate", "0.5", "--duration", "1h 30m", "--service-a=http://a:9464"]);
        let settings = settings.unwrap();
        assert_eq!((settings.rate, settings.duration), (0.5, Some(Duration::from_secs(5400))));
        assert_eq!(settings.service_a.map(String::from).as_deref(), Some("http://a:9464/"));
    }

    #[test]
    fn all_invalid_values_are_reported() {
        let bad = [
            "--target=secret",
            "--rate=NaN",
            "--duration=30",
            "--timeout=0s",
            "--max-in-flight=0",
            "--service-a=https://secret@a",
        ];
        let error = read(&bad).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let message = error.to_string();
        assert!(message.starts_with("lab load: 6 invalid settings\n"), "{message}");
        for setting in ALL {
            let name = format!("{} (--{}): ", setting.variable, flag(&setting));
            assert!(message.contains(&name), "no {name} in {message}");
        }
        assert!(!message.contains("secret"), "{message}");
    }

    #[test]
    fn help_lists_defaults() {
        let help = read(&["--help"]).unwrap_err();
        assert_eq!(help.exit_code(), 0);
        let text = help.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        for setting in ALL {
            assert!(text.contains(&format!("--{} <", flag(&setting))), "{text}");
            assert!(text.contains(&format!("[env: {}]", setting.variable)), "{text}");
            if let Some(default) = setting.default {
                assert!(text.contains(&format!("[default: {default}]")), "{text}");
            }
        }
    }
}
