//! Output: a banner, then the log lines of both services and status lines of the lab.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;

/// Writer to stdout. Errors are ignored, so that a closed reader does not stop the lab.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terminal {
    has_colors: bool,
    /// `true` if the lab reads keys.
    pub(crate) has_keys: bool,
}

/// Contents of the banner.
pub(crate) struct Banner {
    pub(crate) a: SocketAddr,
    pub(crate) b: SocketAddr,
    pub(crate) a_pid: u32,
    pub(crate) b_pid: u32,
    pub(crate) traces: String,
}

impl Terminal {
    pub(crate) fn new(has_keys: bool) -> Self {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { has_colors: !no_color && std::io::stdout().is_terminal(), has_keys }
    }

    pub(crate) fn print_banner(self, banner: &Banner) {
        let Banner { a, b, a_pid, b_pid, traces } = banner;
        let keys = if self.has_keys {
            "a stops or starts A, b does the same for B, t lists notable traces,
  q or Ctrl-C ends it all"
        } else {
            "Ctrl-C ends it all"
        };
        print_line(format_args!(
            "
  Two services, one trace. Try:

    curl \"http://{b}/call-echo?msg=hello\"

  traces    {traces}
  metrics   http://{b}/metrics  http://{a}/metrics
  A         http://{a}  pid {a_pid}  the echo API
  B         http://{b}  pid {b_pid}  calls A

  break A   kill {a_pid}
            curl -X PUT http://{a}/faults -d '{{\"delay_ms\":1500}}'
  repair A  curl -X DELETE http://{a}/faults

  {keys}
"
        ));
    }

    /// Prints a log line of the service `label`, followed by the link to its trace.
    pub(crate) fn print_log(self, label: char, line: &str, link: Option<&str>) {
        let color = if label == 'A' { "36" } else { "35" };
        let link = link.map(|link| format!("  -> {}", self.paint("4", link))).unwrap_or_default();
        print_line(format_args!("{} {line}{link}", self.paint(color, label)));
    }

    /// Prints a message of the lab.
    pub(crate) fn print_status(self, message: impl Display) {
        print_line(self.paint("1", format_args!("* {message}")));
    }

    fn paint(self, style: &str, text: impl Display) -> String {
        if self.has_colors { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_string() }
    }
}

fn print_line(line: impl Display) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}
