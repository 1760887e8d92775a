//! Output: log lines of both services and status lines of the lab.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::sync::LazyLock;

static HAS_COLORS: LazyLock<bool> = LazyLock::new(|| {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
    !no_color && !is_dumb && std::io::stdout().is_terminal()
});

/// Prints a line. Errors are ignored, so that a closed reader does not stop the lab.
pub(crate) fn print_line(line: impl Display) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// Prints a log line of the service `label`, followed by the link to its trace.
pub(crate) fn print_log(label: char, line: &str, link: Option<&str>) {
    let color = if label == 'A' { "36" } else { "35" };
    let link = link.map(|link| format!("  -> {}", paint("4", link))).unwrap_or_default();
    print_line(format_args!("{} {line}{link}", paint(color, label)));
}

/// Prints a message of the lab.
pub(crate) fn print_status(message: impl Display) {
    print_line(paint("1", format_args!("* {message}")));
}

/// Returns `text` in this style (SGR parameters), or without one if the terminal shows no colors.
pub(crate) fn paint(style: &str, text: impl Display) -> String {
    if *HAS_COLORS { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_string() }
}
