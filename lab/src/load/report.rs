//! Progress on stderr, the final report and the format of their numbers.

use std::cmp::Reverse;
use std::fmt::{self, Display, Formatter};
use std::io::{IsTerminal, Write};
use std::time::Duration;

use hdrhistogram::Histogram;

use super::args::Args;
use super::client::{Outcome, endpoint, redacted};
use super::faults::FaultCycleSummary;
use super::stats::{Interval, Stats};

/// Writes a permanent line to stderr.
pub(super) fn print_line(text: impl Display) {
    let mut stderr = std::io::stderr();
    let clear = if stderr.is_terminal() { "\r\x1b[K" } else { "" };
    let _ = writeln!(stderr, "{clear}load: {text}");
}

/// Writes a line to stderr that the next one replaces on a terminal.
pub(super) fn print_progress(state: &ProgressState) {
    let mut stderr = std::io::stderr();
    if !stderr.is_terminal() {
        return print_line(state);
    }
    // Wrapping is disabled because `\r` returns only to the start of the last row.
    let _ = write!(stderr, "\r\x1b[K\x1b[?7lload: {state}\x1b[?7h");
}

/// State of the run for a progress line.
#[derive(Debug)]
pub(super) struct ProgressState {
    pub(super) elapsed: Duration,
    pub(super) interval: Interval,
    pub(super) interval_length: Duration,
    pub(super) in_flight: usize,
    /// Current phase of the fault cycle.
    pub(super) fault: Option<&'static str>,
}

impl Display for ProgressState {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Interval { sent, not_sent, ok, latencies } = &self.interval;
        let rate = format_rate(per_second(*sent, self.interval_length));
        write!(f, "{} s  {rate}/s sent, ", self.elapsed.as_secs())?;
        if latencies.is_empty() {
            write!(f, "no responses")?;
        } else {
            let ok = format_percent(*ok, latencies.len());
            let [p50, p99] = [0.5, 0.99].map(|quantile| format_ms(latencies, quantile));
            write!(f, "{ok} % ok, p50 {p50} ms, p99 {p99} ms")?;
        }
        write!(f, ", {} in flight", self.in_flight)?;
        if *not_sent > 0 {
            write!(f, ", {not_sent} due but not sent")?;
        }
        self.fault.map_or(Ok(()), |fault| write!(f, ", A: {fault}"))
    }
}

/// Reason for the end of a run.
#[derive(Debug, Clone, Copy)]
pub(super) enum StopReason {
    Completed,
    Signal(&'static str),
}

impl Display for StopReason {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Completed => f.write_str("completed"),
            Self::Signal(name) => write!(f, "stopped by {name}"),
        }
    }
}

/// Report at the end of a run.
#[derive(Debug)]
pub(super) struct Report<'a> {
    pub(super) args: &'a Args,
    pub(super) stop_reason: StopReason,
    /// Time during which requests were sent.
    pub(super) elapsed: Duration,
    pub(super) stats: &'a Stats,
    pub(super) faults: Option<FaultCycleSummary>,
}

impl Display for Report<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { args, stop_reason, elapsed, stats, faults } = self;
        let Stats { sent, not_sent, aborted, max_send_delay, outcomes, all, ok, .. } = stats;
        let target = redacted(&endpoint(&args.target, "call-echo"));
        writeln!(f, "load of {target}: {stop_reason} after {:.1} s\n", elapsed.as_secs_f64())?;
        write!(f, "requests   {sent} sent of {} due", sent + not_sent)?;
        if *not_sent > 0 {
            let max = args.max_in_flight;
            write!(f, "; {not_sent} not sent because {max} were in flight (not in the latencies)")?;
        }
        if *aborted > 0 {
            write!(f, "; {aborted} aborted")?;
        }
        let rates = [per_second(*sent, *elapsed), per_second(ok.len(), *elapsed), args.rate];
        let [sent_rate, ok_rate, target_rate] = rates.map(format_rate);
        writeln!(f, "\nrate       {sent_rate}/s sent, {ok_rate}/s ok; target {target_rate}/s")?;
        let delay_ms = max_send_delay.as_secs_f64() * 1e3;
        writeln!(f, "delay      sent at most {delay_ms:.2} ms after the due time")?;
        if let Some(faults) = faults {
            writeln!(f, "faults     {faults}")?;
        }

        writeln!(f, "\nlatency ms       p50       p90       p95       p99     p99.9       max")?;
        for (name, latencies) in [("all", all), ("ok", ok)] {
            let columns = [0.5, 0.9, 0.95, 0.99, 0.999, 1.0]
                .map(|quantile| format!(" {:>9}", format_ms(latencies, quantile)));
            writeln!(f, "  {name:<8}{}", columns.concat())?;
        }

        writeln!(f, "\noutcomes{}", if outcomes.is_empty() { "   none" } else { "" })?;
        let mut rows: Vec<_> = outcomes.iter().map(|(o, &count)| (o.to_string(), count)).collect();
        let ok = Outcome::Ok.to_string();
        rows.sort_by_key(|(name, count)| (*name != ok, Reverse(*count), name.clone()));
        for (name, count) in rows {
            let percent = format_percent(count, all.len());
            writeln!(f, "  {name:<15} {count:>9} {percent:>8} %")?;
        }
        Ok(())
    }
}

/// Formats a quantile in milliseconds, or `-` without values.
fn format_ms(latencies: &Histogram<u64>, quantile: f64) -> String {
    let ms = Duration::from_micros(latencies.value_at_quantile(quantile)).as_secs_f64() * 1e3;
    match ms {
        _ if latencies.is_empty() => "-".to_owned(),
        ..9.995 => format!("{ms:.2}"),
        _ => format!("{ms:.1}"),
    }
}

/// Formats a share in percent. Only all are 100.00 and only none are 0.00.
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
fn format_percent(part: u64, whole: u64) -> String {
    let min = if part > 0 { 0.01 } else { 0.0 };
    let max = if part < whole { 99.99 } else { 100.0 };
    format!("{:.2}", (part as f64 / whole.max(1) as f64 * 100.0).clamp(min, max))
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
fn per_second(count: u64, elapsed: Duration) -> f64 {
    if elapsed.is_zero() { 0.0 } else { count as f64 / elapsed.as_secs_f64() }
}

pub(super) fn format_rate(rate: f64) -> String {
    if rate > 0.0 && rate < 1.0 { format!("{rate:.3}") } else { format!("{rate:.1}") }
}

#[cfg(test)]
mod tests {
    use super::super::client::Completed;
    use super::*;
    use clap::Parser;
    use observability::ErrorKind;
    use reqwest::StatusCode;

    #[test]
    fn progress_covers_last_interval() {
        let mut stats = Stats::new().unwrap();
        for outcome in [Outcome::Ok, Outcome::Ok, Outcome::Ok, Outcome::InvalidBody] {
            stats.on_sent(Duration::ZERO);
            stats.on_finished(Ok(Completed { outcome, latency: Duration::from_millis(2) }));
        }
        stats.on_not_sent();
        let mut state = ProgressState {
            elapsed: Duration::from_secs(60),
            interval: stats.take_interval(),
            interval_length: Duration::from_secs(2),
            in_flight: 3,
            fault: Some("reset"),
        };
        assert_eq!(
            state.to_string(),
            "60 s  2.0/s sent, 75.00 % ok, p50 2.00 ms, p99 2.00 ms, 3 in flight, \
             1 due but not sent, A: reset"
        );
        state.interval = stats.take_interval();
        state.fault = None;
        assert_eq!(state.to_string(), "60 s  0.0/s sent, no responses, 3 in flight");
    }

    #[test]
    fn report_lists_all_statistics() {
        let mut stats = Stats::new().unwrap();
        for (outcome, count, ms) in [
            (Outcome::Ok, 90, 2),
            (Outcome::Failed(ErrorKind::Timeout), 6, 1001),
            (Outcome::Failed(ErrorKind::Status(StatusCode::INTERNAL_SERVER_ERROR)), 3, 3),
            (Outcome::Transport(ErrorKind::Refused), 1, 1),
        ] {
            for _ in 0..count {
                stats.on_sent(Duration::from_micros(120));
                stats.on_finished(Ok(Completed { outcome, latency: Duration::from_millis(ms) }));
            }
        }
        stats.on_not_sent();
        let flags = "load --target=http://user:pw@b:1 --rate=10.1 --max-in-flight=8";
        let report = Report {
            args: &Args::try_parse_from(flags.split(' ')).unwrap(),
            stop_reason: StopReason::Signal("SIGTERM"),
            elapsed: Duration::from_secs(10),
            stats: &stats,
            faults: Some(FaultCycleSummary::default()),
        };
        let expected = "\
load of http://b:1/call-echo: stopped by SIGTERM after 10.0 s

requests   100 sent of 101 due; 1 not sent because 8 were in flight (not in the latencies)
rate       10.0/s sent, 9.0/s ok; target 10.1/s
delay      sent at most 0.12 ms after the due time
faults     0 switches, 0 failures, off at the end

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
    fn report_without_requests_has_no_latencies() {
        let report = Report {
            args: &Args::try_parse_from(["load", "--rate=0.05"]).unwrap(),
            stop_reason: StopReason::Signal("SIGINT"),
            elapsed: Duration::ZERO,
            stats: &Stats::new().unwrap(),
            faults: None,
        };
        let text = report.to_string();
        assert!(text.contains("0 sent of 0 due\n"), "{text}");
        let row = text.lines().find(|line| line.starts_with("  ok ")).unwrap();
        assert_eq!(row.split_whitespace().collect::<String>(), "ok------");
        assert!(text.contains("target 0.050/s"), "{text}");
    }

    #[test]
    fn percent_never_rounds_to_100() {
        assert_eq!(format_percent(999_999, 1_000_000), "99.99");
        assert_eq!(format_percent(1, 1_000_000), "0.01");
        assert_eq!(format_percent(5, 5), "100.00");
        assert_eq!(format_percent(0, 0), "0.00");
    }
}
