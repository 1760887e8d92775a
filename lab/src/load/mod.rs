//! Open-loop load generator: sends requests to service B at a constant rate and reports the results.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use observability::Error;
use observability::server::ShutdownSignals;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval_at};

use args::Args;
use client::{LoadClient, endpoint, redacted};
use faults::{FaultCycle, PHASES};
use pacer::Pacer;
use report::{ProgressState, Report, StopReason, format_rate, print_line, print_progress};
use stats::Stats;

mod args;
mod client;
mod faults;
mod pacer;
mod report;
mod stats;

/// Runs `lab load`.
pub(crate) async fn run(args: impl Iterator<Item = OsString>) -> Result<(), Error> {
    let args: Args = observability::parse(std::iter::once("lab load".into()).chain(args))?;
    let mut signals = ShutdownSignals::new()?;
    let client = LoadClient::new(&args.target, args.timeout)?;
    let mut stats = Stats::new()?;
    let mut in_flight = JoinSet::new();

    let (rate, target) = (format_rate(args.rate), redacted(&endpoint(&args.target, "call-echo")));
    let end = args.duration.map(|duration| format!("for {}", humantime::format_duration(duration)));
    let end = end.as_deref().unwrap_or("until stopped");
    print_line(format_args!("{rate} requests/s to {target} {end}"));

    let start = Instant::now();
    let mut due = Pacer { rate: args.rate, duration: args.duration }.start(start)?;
    let warn = |error: &str| print_line(format_args!("faults: {error}"));
    let faults = args.faults_url.as_ref().map(|url| FaultCycle::start(url, PHASES, warn));
    let faults = faults.transpose()?;
    let period = Duration::from_secs(if std::io::stderr().is_terminal() { 1 } else { 10 });
    let mut progress = interval_at((start + period).into(), period);
    progress.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut last_progress = Duration::ZERO;
    let stop_reason = loop {
        tokio::select! {
            due = due.recv() => match due {
                Some(_) if in_flight.len() >= args.max_in_flight => stats.on_not_sent(),
                Some(due) => {
                    stats.on_sent(due.elapsed());
                    in_flight.spawn(client.clone().send(due));
                }
                None => break StopReason::Completed,
            },
            Some(result) = in_flight.join_next() => stats.on_finished(result),
            _ = progress.tick() => {
                let elapsed = start.elapsed();
                let state = ProgressState {
                    elapsed,
                    interval: stats.take_interval(),
                    interval_length: elapsed - last_progress,
                    in_flight: in_flight.len(),
                    fault: faults.as_ref().map(FaultCycle::phase),
                };
                last_progress = elapsed;
                print_progress(&state);
            }
            signal = signals.recv() => break StopReason::Signal(signal),
        }
    };
    let elapsed = start.elapsed();
    print_line(format_args!("{stop_reason}, {} requests in flight", in_flight.len()));

    let clear_faults = async {
        match faults {
            Some(faults) => Some(faults.stop().await),
            None => None,
        }
    };
    let drain = async {
        loop {
            tokio::select! {
                result = in_flight.join_next() => match result {
                    Some(result) => stats.on_finished(result),
                    None => break,
                },
                _ = signals.recv() => in_flight.abort_all(),
            }
        }
    };
    let (faults, ()) = tokio::join!(clear_faults, drain);

    let report = Report { args: &args, stop_reason, elapsed, stats: &stats, faults };
    let mut stdout = std::io::stdout().lock();
    // A closed stdout is not an error because its reader does not want the report.
    let _ = stdout.write_all(report.to_string().as_bytes()).and_then(|()| stdout.flush());
    if stats.is_unreachable() {
        return Err(Error::other(format!(
            "lab load: no response from service B at {}; is it running? `cargo run` starts it",
            redacted(&args.target)
        )));
    }
    Ok(())
}
