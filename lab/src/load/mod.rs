//! Open-loop load generator: sends requests to service B at a given rate and reports the results.

use std::ffi::OsString;
use std::io::Write;
use std::time::{Duration, Instant};

use futures_util::future::OptionFuture;
use observability::Error;
use observability::server::ShutdownSignals;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval_at};

use args::Args;
use client::{build_client, send};
use faults::{FaultCycle, PHASES};
use html_report::HtmlReport;
use pacer::start_pacer;
use report::{format_progress, format_rate, format_report, print_line, sorted_outcomes};
use stats::Stats;

use crate::http::{endpoint, redacted};

mod args;
mod chart;
mod client;
mod departure;
mod faults;
mod html_report;
mod pacer;
mod report;
mod stats;
mod timeline;

/// Time from one progress line to the next.
const PROGRESS_PERIOD: Duration = Duration::from_secs(5);

/// Runs `lab load`.
pub(crate) async fn run(args: impl Iterator<Item = OsString>) -> Result<(), Error> {
    let args: Args = observability::parse(std::iter::once("lab load".into()).chain(args))?;
    let mut signals = ShutdownSignals::new()?;
    let client = build_client(args.timeout)?;
    let call_echo = endpoint(&args.target, "call-echo");
    let mut stats = Stats::new()?;
    let mut html_report = args.html_report.as_deref().map(HtmlReport::create).transpose()?;
    let mut in_flight = JoinSet::new();

    let (rate, target) = (format_rate(args.rate), redacted(&call_echo));
    let end = args.duration.map(|duration| format!("for {}", humantime::format_duration(duration)));
    let end = end.as_deref().unwrap_or("until stopped");
    print_line(format_args!("{rate} requests/s to {target} {end}"));

    let start = Instant::now();
    let mut due = start_pacer(start, args.schedule());
    let warn = |error: &str| print_line(format_args!("faults: {error}"));
    let faults = args.faults_url.as_ref().map(|base_url| {
        FaultCycle::start(client.clone(), endpoint(base_url, "faults"), PHASES, warn)
    });
    let mut on_finished = |stats: &mut Stats, result| {
        stats.on_finished(&result);
        if let (Some(html_report), Ok(completed)) = (&mut html_report, result) {
            html_report.timeline.record(start.elapsed(), &completed);
        }
    };
    let mut progress = interval_at((start + PROGRESS_PERIOD).into(), PROGRESS_PERIOD);
    progress.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut last_stats = stats.clone();
    let stop_reason = loop {
        tokio::select! {
            due = due.recv() => match due {
                Some(_) if in_flight.len() >= args.max_in_flight => stats.not_sent += 1,
                Some(due) => {
                    stats.sent += 1;
                    in_flight.spawn(send(client.clone(), call_echo.clone(), due));
                }
                None => break "completed".to_owned(),
            },
            Some(result) = in_flight.join_next() => on_finished(&mut stats, result),
            _ = progress.tick() => {
                stats.elapsed = start.elapsed();
                let fault = faults.as_ref().map(|faults| *faults.phase.borrow());
                print_line(format_progress(&last_stats, &stats, in_flight.len(), fault));
                last_stats = stats.clone();
            }
            signal = signals.recv() => break format!("stopped by {signal}"),
        }
    };
    stats.elapsed = start.elapsed();
    print_line(format_args!("{stop_reason}, {} requests in flight", in_flight.len()));

    let drain = async {
        while !in_flight.is_empty() {
            tokio::select! {
                Some(result) = in_flight.join_next() => on_finished(&mut stats, result),
                _ = signals.recv() => in_flight.abort_all(),
            }
        }
    };
    let (faults, ()) = tokio::join!(OptionFuture::from(faults.map(FaultCycle::stop)), drain);

    let report = format_report(&args, &stop_reason, &stats, faults.as_deref());
    // A closed stdout is not an error because its reader does not want the report.
    let _ = std::io::stdout().write_all(report.as_bytes());
    if let Some(html_report) = html_report {
        html_report.write(&report, &sorted_outcomes(&stats))?;
    }
    if stats.is_unreachable() {
        return Err(Error::other(format!(
            "lab load: no response from service B at {}; is it running? `cargo run` starts it",
            redacted(&args.target)
        )));
    }
    Ok(())
}
