//! Progress on stderr, the final report and the format of their numbers.

use std::cmp::Reverse;
use std::fmt::{self, Display};
use std::io::{self, Write as _};
use std::time::Duration;

use hdrhistogram::Histogram;

use super::args::Args;
use super::client::Outcome;
use super::stats::Stats;
use crate::http::{endpoint, redacted};

/// Writes a line to stderr.
pub(super) fn print_line(text: impl Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Describes the time from `last` to `now`. `fault` is the current phase of the fault cycle.
pub(super) fn format_progress(
    last: &Stats,
    now: &Stats,
    in_flight: usize,
    fault: Option<&str>,
) -> String {
    let mut latencies = now.all.clone();
    let mut own_lag = now.own_lag.clone();
    // These do not fail because `last` is an earlier copy of `now`.
    let _ = latencies.subtract(&last.all);
    let _ = own_lag.subtract(&last.own_lag);
    let rate = format_rate(per_second(now.sent - last.sent, now.elapsed - last.elapsed));
    let results = if latencies.is_empty() {
        "no responses".to_owned()
    } else {
        let ok = format_percent(now.ok.len() - last.ok.len(), latencies.len());
        let [p50, p99] = [0.5, 0.99].map(|quantile| format_ms(&latencies, quantile));
        let own_lag = format_ms(&own_lag, 0.99);
        format!("{ok} % ok  p50 {p50} p99 {p99} own lag {own_lag} ms")
    };
    let not_sent = match now.not_sent - last.not_sent {
        0 => String::new(),
        not_sent => format!("  {not_sent} not sent"),
    };
    let fault = fault.map(|fault| format!("  A: {fault}")).unwrap_or_default();
    let seconds = now.elapsed.as_secs();
    format!("{seconds} s  {rate}/s  {results}  {in_flight} in flight{not_sent}{fault}")
}

/// Formats the report at the end of a run. `faults` is the summary of the fault cycle.
pub(super) fn format_report(
    args: &Args,
    stop_reason: &str,
    stats: &Stats,
    faults: Option<&str>,
) -> String {
    let mut report = String::new();
    // A String never fails.
    let _ = write_report(&mut report, args, stop_reason, stats, faults);
    report
}

fn write_report(
    out: &mut impl fmt::Write,
    args: &Args,
    stop_reason: &str,
    stats: &Stats,
    faults: Option<&str>,
) -> fmt::Result {
    let Stats { elapsed, sent, not_sent, aborted, outcomes, all, ok, own_lag } = stats;
    let target = redacted(&endpoint(&args.target, "call-echo"));
    writeln!(out, "load of {target}: {stop_reason} after {:.1} s\n", elapsed.as_secs_f64())?;
    write!(out, "requests   {sent} sent of {} due", sent + not_sent)?;
    if *not_sent > 0 {
        let max = args.max_in_flight;
        write!(out, "; {not_sent} not sent because {max} were in flight (not in the latencies)")?;
    }
    if *aborted > 0 {
        write!(out, "; {aborted} aborted")?;
    }
    let rates = [per_second(*sent, *elapsed), per_second(ok.len(), *elapsed), args.rate];
    let [sent_rate, ok_rate, target_rate] = rates.map(format_rate);
    write!(out, "\nrate       {sent_rate}/s sent, {ok_rate}/s ok; target {target_rate}/s")?;
    if let Some(ramp) = args.ramp {
        write!(out, " after a ramp of {}", humantime::format_duration(ramp))?;
    }
    writeln!(out)?;
    if let Some(faults) = faults {
        writeln!(out, "faults     {faults}")?;
    }

    writeln!(out, "\nlatency ms       p50       p90       p95       p99     p99.9       max")?;
    for (name, latencies) in [("all", all), ("ok", ok), ("own lag", own_lag)] {
        let columns = [0.5, 0.9, 0.95, 0.99, 0.999, 1.0]
            .map(|quantile| format!(" {:>9}", format_ms(latencies, quantile)));
        writeln!(out, "  {name:<8}{}", columns.concat())?;
    }
    writeln!(out, "The own lag is the part of a latency that this machine causes, not B.")?;

    writeln!(out, "\noutcomes{}", if outcomes.is_empty() { "   none" } else { "" })?;
    for outcome in sorted_outcomes(stats) {
        let count = outcomes[&outcome];
        let percent = format_percent(count, all.len());
        writeln!(out, "  {:<15} {count:>9} {percent:>8} %", outcome.to_string())?;
    }
    Ok(())
}

/// Returns the outcomes of a run, `ok` first and then by count.
pub(super) fn sorted_outcomes(stats: &Stats) -> Vec<Outcome> {
    let mut outcomes: Vec<_> = stats.outcomes.keys().copied().collect();
    outcomes.sort_by_key(|outcome| {
        (*outcome != Outcome::Ok, Reverse(stats.outcomes[outcome]), outcome.to_string())
    });
    outcomes
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

    fn record(stats: &mut Stats, outcome: Outcome, ms: u64) {
        let (latency, own_lag) = (Duration::from_millis(ms), Duration::from_micros(120 * ms));
        stats.sent += 1;
        stats.on_finished(&Ok(Completed { outcome, latency, own_lag }));
    }

    #[test]
    fn progress_covers_last_interval() {
        let mut stats = Stats::new().unwrap();
        record(&mut stats, Outcome::Ok, 1000);
        stats.elapsed = Duration::from_secs(58);
        let last = stats.clone();
        for outcome in [Outcome::Ok, Outcome::Ok, Outcome::Ok, Outcome::InvalidBody] {
            record(&mut stats, outcome, 2);
        }
        stats.not_sent += 1;
        stats.elapsed = Duration::from_secs(60);
        assert_eq!(
            format_progress(&last, &stats, 3, Some("reset")),
            "60 s  2.0/s  75.00 % ok  p50 2.00 p99 2.00 own lag 0.24 ms  3 in flight  1 not sent  A: reset"
        );
        let last = stats.clone();
        assert_eq!((stats.sent, stats.all.len()), (5, 5));
        assert_eq!(
            format_progress(&last, &stats, 3, None),
            "60 s  0.0/s  no responses  3 in flight"
        );
    }

    fn report(flags: &[&str], stop_reason: &str, stats: &Stats, faults: Option<&str>) -> String {
        let args = Args::try_parse_from([&["load"], flags].concat()).unwrap();
        format_report(&args, stop_reason, stats, faults)
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
                record(&mut stats, outcome, ms);
            }
        }
        stats.not_sent += 1;
        stats.elapsed = Duration::from_secs(10);
        let flags =
            ["--target=http://user:pw@b:1", "--rate=10.1", "--ramp=1s", "--max-in-flight=8"];
        let faults = "0 switches, 0 failures, off at the end";
        let text = report(&flags, "stopped by SIGTERM", &stats, Some(faults));
        let expected = "\
load of http://b:1/call-echo: stopped by SIGTERM after 10.0 s

requests   100 sent of 101 due; 1 not sent because 8 were in flight (not in the latencies)
rate       10.0/s sent, 9.0/s ok; target 10.1/s after a ramp of 1s
faults     0 switches, 0 failures, off at the end

latency ms       p50       p90       p95       p99     p99.9       max
  all           2.00      2.00    1001.5    1001.5    1001.5    1001.5
  ok            2.00      2.00      2.00      2.00      2.00      2.00
  own lag       0.24      0.24     120.1     120.1     120.1     120.1
The own lag is the part of a latency that this machine causes, not B.

outcomes
  ok                     90    90.00 %
  timeout                 6     6.00 %
  500                     3     3.00 %
  B: refused              1     1.00 %
";
        assert_eq!(text, expected);
    }

    #[test]
    fn report_without_requests_has_no_latencies() {
        let text = report(&["--rate=0.05"], "stopped by SIGINT", &Stats::new().unwrap(), None);
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
