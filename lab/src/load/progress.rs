//! What is seen while the load runs: a bar on a terminal, a line every ten seconds elsewhere.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::report::{ms, number, per_second, percent};
use super::tally::Recent;

/// Writes to stderr, so that stdout holds the report alone. A reader that went away is no reason to
/// stop.
#[derive(Debug, Clone)]
pub(crate) struct Progress {
    /// On a terminal.
    bar: Option<ProgressBar>,
}

/// What is shown beside the latest counts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now<'a> {
    pub(crate) elapsed: Duration,
    /// Since the last line.
    pub(crate) since: Duration,
    pub(crate) in_flight: usize,
    pub(crate) faults: Option<&'a str>,
}

impl Progress {
    /// For a load of that duration, or one without an end.
    pub(crate) fn new(duration: Option<Duration>) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| bar(duration));
        Self { bar }
    }

    /// How often it wants to be shown.
    pub(crate) fn interval(&self) -> Duration {
        Duration::from_secs(if self.bar.is_some() { 1 } else { 10 })
    }

    pub(crate) fn show(&self, recent: &Recent, now: &Now<'_>) {
        let text = line(recent, now);
        match &self.bar {
            Some(bar) => {
                bar.set_position(now.elapsed.as_secs());
                bar.set_message(text);
            }
            None => self.say(format_args!("{} s  {text}", now.elapsed.as_secs())),
        }
    }

    /// A line that stays.
    pub(crate) fn say(&self, text: impl Display) {
        let write = || {
            let _ = writeln!(std::io::stderr(), "load: {text}");
        };
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    /// Makes room for the report.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar(duration: Option<Duration>) -> ProgressBar {
    let length = duration.map(|duration| duration.as_secs());
    let template = match length {
        Some(_) => "{pos} of {len} s [{bar:16}] {wide_msg}",
        None => "{spinner} {elapsed} {wide_msg}",
    };
    // The templates are fixed; the default style only stands in for one that would not parse.
    let style = ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ");
    ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr()).with_style(style)
}

fn line(recent: &Recent, now: &Now<'_>) -> String {
    let sent = number(per_second(recent.sent, now.since));
    let mut text = format!("{sent}/s sent, ");
    match (recent.all.quantile(0.5), recent.all.quantile(0.99)) {
        (Some(p50), Some(p99)) => {
            let ok = percent(recent.ok, recent.all.len());
            text += &format!("{ok} % ok, p50 {} ms, p99 {} ms", ms(p50), ms(p99));
        }
        _ => text += "no answers",
    }
    text += &format!(", {} in flight", now.in_flight);
    if recent.not_sent > 0 {
        text += &format!(", {} due but not sent", recent.not_sent);
    }
    if let Some(faults) = now.faults {
        text += &format!(", A: {faults}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::request::{Done, Outcome};
    use super::super::tally::Tally;
    use super::*;

    #[test]
    fn progress_covers_last_interval() {
        let mut tally = Tally::new().unwrap();
        for outcome in [Outcome::Ok, Outcome::Ok, Outcome::Ok, Outcome::BDecode] {
            tally.sent(Duration::ZERO);
            tally.done(Done { outcome, latency: Duration::from_millis(2) });
        }
        tally.not_sent();
        let mut now = Now {
            elapsed: Duration::from_secs(60),
            since: Duration::from_secs(2),
            in_flight: 3,
            faults: Some("reset"),
        };
        assert_eq!(
            tally.recent(|recent| line(recent, &now)),
            "2.0/s sent, 75.00 % ok, p50 2.00 ms, p99 2.00 ms, 3 in flight, 1 due but not sent, A: reset"
        );
        now.faults = None;
        assert_eq!(
            tally.recent(|recent| line(recent, &now)),
            "0.0/s sent, no answers, 3 in flight"
        );
    }
}
