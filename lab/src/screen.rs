//! What the lab shows: one short screen, then both logs, each line marked.

use std::fmt::Display;
use std::io::{IsTerminal, Write};

/// Writes to stdout; a reader that went away is no reason to stop.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Screen {
    colors: bool,
    /// Whether a key can be pressed.
    pub(crate) keys: bool,
}

/// What the first screen says.
pub(crate) struct Greeting<'a> {
    pub(crate) a: &'a str,
    pub(crate) b: &'a str,
    pub(crate) a_pid: u32,
    pub(crate) b_pid: u32,
    pub(crate) traces: &'a str,
}

impl Screen {
    pub(crate) fn new() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { colors: wanted && std::io::stdout().is_terminal(), keys: false }
    }

    pub(crate) fn greet(self, greeting: &Greeting<'_>) {
        let Greeting { a, b, a_pid, b_pid, traces } = greeting;
        let keys = if self.keys {
            "a stops and starts A, t shows the slowest and the failed requests' traces, Ctrl-C ends it all"
        } else {
            "Ctrl-C ends it all"
        };
        self.print(format_args!(
            "
  Two services, one trace. Try:

    curl \"http://{b}/call-echo?msg=hello\"

  traces   {traces}
  metrics  http://{b}/metrics  http://{a}/metrics
  A        http://{a}  pid {a_pid}  the echo API
  B        http://{b}  pid {b_pid}  calls A

  break A  kill {a_pid}
           curl -X PUT http://{a}/faults -d '{{\"delay_ms\":1500}}'
  mend A   curl -X DELETE http://{a}/faults

  {keys}
"
        ));
    }

    /// A line of a service's log; `link` opens its trace.
    pub(crate) fn log(self, mark: char, line: &str, link: Option<&str>) {
        let color = if mark == 'A' { "36" } else { "35" };
        let link = link.map(|link| format!("  -> {}", self.paint("4", link))).unwrap_or_default();
        self.print(format_args!("{} {line}{link}", self.paint(color, mark)));
    }

    /// Something the lab itself has to say.
    pub(crate) fn say(self, text: impl Display) {
        self.print(format_args!("{}", self.paint("1", format_args!("* {text}"))));
    }

    fn paint(self, color: &str, text: impl Display) -> String {
        if self.colors { format!("\x1b[{color}m{text}\x1b[0m") } else { text.to_string() }
    }

    fn print(self, line: impl Display) {
        let _ = writeln!(std::io::stdout().lock(), "{line}");
    }
}
