//! The report at the end, and how numbers are written.

use std::fmt::{self, Write};
use std::time::Duration;

use super::faults::Switched;
use super::request::Outcome;
use super::tally::{Latencies, Tally};

/// All that is known at the end.
#[derive(Debug)]
pub(crate) struct Report<'a> {
    pub(crate) target: &'a str,
    /// What ended it.
    pub(crate) end: &'a str,
    /// How long requests were sent.
    pub(crate) elapsed: Duration,
    /// The rate that was asked for, in requests per second.
    pub(crate) rate: f64,
    pub(crate) max_in_flight: usize,
    pub(crate) tally: &'a Tally,
    pub(crate) faults: Option<&'a Switched>,
}

const QUANTILES: [(&str, f64); 6] =
    [("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)];

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { target, end, elapsed, tally, .. } = self;
        writeln!(f, "load of {target}: {end} after {:.1} s\n", elapsed.as_secs_f64())?;
        self.requests(f)?;
        writeln!(
            f,
            "rate       {}/s sent, {}/s ok; {}/s asked for",
            number(per_second(tally.sent, *elapsed)),
            number(per_second(tally.ok.len(), *elapsed)),
            number(self.rate)
        )?;
        // How far the figures are the generator's own.
        writeln!(f, "lag        sent at most {} ms after they were due", ms(tally.lag))?;
        if let Some(faults) = self.faults {
            writeln!(f, "faults     {faults}")?;
        }
        self.latencies(f)?;
        self.outcomes(f)
    }
}

impl Report<'_> {
    fn requests(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { sent, not_sent, unfinished, .. } = self.tally;
        write!(f, "requests   {sent} sent of {} due", sent + not_sent)?;
        if *not_sent > 0 {
            let bound = self.max_in_flight;
            write!(f, "; {not_sent} not sent, with {bound} in flight: no latency counts them")?;
        }
        if *unfinished > 0 {
            write!(f, "; {unfinished} cut off at the end")?;
        }
        writeln!(f)
    }

    fn latencies(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\nlatency ms")?;
        for (name, _) in QUANTILES {
            write!(f, " {name:>9}")?;
        }
        writeln!(f)?;
        row(f, "  all", &self.tally.all)?;
        row(f, "  ok", &self.tally.ok)
    }

    fn outcomes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut outcomes: Vec<_> = self.tally.outcomes.iter().collect();
        // What went well first, then what went wrong most often.
        outcomes.sort_by_key(|(outcome, count)| (**outcome != Outcome::Ok, u64::MAX - **count));
        writeln!(f, "\noutcomes{}", if outcomes.is_empty() { "   none" } else { "" })?;
        for (outcome, count) in outcomes {
            let share = percent(*count, self.tally.all.len());
            writeln!(f, "  {:<15} {count:>9} {share:>8} %", outcome.to_string())?;
        }
        Ok(())
    }
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, latencies: &Latencies) -> fmt::Result {
    write!(f, "{name:<10}")?;
    for (_, q) in QUANTILES {
        let value = latencies.quantile(q).map_or_else(|| "-".to_owned(), ms);
        write!(f, " {value:>9}")?;
    }
    writeln!(f)
}

/// Milliseconds, with as many digits as mean something to a person.
pub(crate) fn ms(duration: Duration) -> String {
    let ms = duration.as_secs_f64() * 1e3;
    if ms < 9.995 { format!("{ms:.2}") } else { format!("{ms:.1}") }
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
pub(crate) fn percent(part: u64, whole: u64) -> String {
    let mut text = String::new();
    let share = part as f64 / whole.max(1) as f64 * 100.0;
    // Neither is one failure in a million "100 %" of success, nor one success in a million none.
    let share = if part < whole { share.min(99.99) } else { share };
    let share = if part > 0 { share.max(0.01) } else { share };
    let _ = write!(text, "{share:.2}");
    text
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
pub(crate) fn per_second(count: u64, elapsed: Duration) -> f64 {
    if elapsed.is_zero() { 0.0 } else { count as f64 / elapsed.as_secs_f64() }
}

/// A rate: one decimal place, or three significant digits where that is less than 1.
pub(crate) fn number(rate: f64) -> String {
    if rate > 0.0 && rate < 1.0 { format!("{rate:.3}") } else { format!("{rate:.1}") }
}

#[cfg(test)]
mod tests {
    use super::super::request::{Done, Reason};
    use super::*;

    #[test]
    fn a_report_says_it_all() {
        let mut tally = Tally::new().unwrap();
        for (outcome, count, ms) in [
            (Outcome::Ok, 90, 2),
            (Outcome::Failed(Reason::Named("timeout")), 6, 1001),
            (Outcome::Failed(Reason::Status(500)), 3, 3),
            (Outcome::BNoAnswer("refused"), 1, 1),
        ] {
            for _ in 0..count {
                tally.sent(Duration::from_micros(120));
                tally.done(Done { outcome, latency: Duration::from_millis(ms) });
            }
        }
        tally.not_sent();
        let report = Report {
            target: "http://b:1/call-echo",
            end: "stopped by SIGTERM",
            elapsed: Duration::from_secs(10),
            rate: 10.1,
            max_in_flight: 8,
            tally: &tally,
            faults: Some(&Switched::default()),
        };
        let expected = "\
load of http://b:1/call-echo: stopped by SIGTERM after 10.0 s

requests   100 sent of 101 due; 1 not sent, with 8 in flight: no latency counts them
rate       10.0/s sent, 9.0/s ok; 10.1/s asked for
lag        sent at most 0.12 ms after they were due
faults     switched 0 times, off at the end

latency ms       p50       p90       p95       p99     p99.9       max
  all           2.00      2.00    1001.5    1001.5    1001.5    1001.5
  ok            2.00      2.00      2.00      2.00      2.00      2.00

outcomes
  ok                     90    90.00 %
  timeout                 6     6.00 %
  500                     3     3.00 %
  B: refused              1     1.00 %
";
        assert_eq!(report.to_string(), expected);
    }

    #[test]
    fn without_a_request_there_are_no_latencies() {
        let report = Report {
            target: "t",
            end: "stopped by SIGINT",
            elapsed: Duration::ZERO,
            rate: 0.05,
            max_in_flight: 1,
            tally: &Tally::new().unwrap(),
            faults: None,
        };
        let text = report.to_string();
        assert!(text.contains("0 sent of 0 due\n"), "{text}");
        let row = text.lines().find(|line| line.starts_with("  ok ")).unwrap();
        assert_eq!(row.split_whitespace().collect::<String>(), "ok------");
        assert!(text.contains("0.050/s asked for"), "{text}");
    }

    #[test]
    fn percent_never_rounds_to_100() {
        assert_eq!(percent(999_999, 1_000_000), "99.99");
        assert_eq!(percent(1, 1_000_000), "0.01");
        assert_eq!(percent(5, 5), "100.00");
        assert_eq!(percent(0, 0), "0.00");
    }
}
