//! `lab load`: requests to B at a constant rate, whatever becomes of them, and a report.
//!
//! | question | where |
//! |---|---|
//! | what can it be told? | [`settings`] |
//! | when is a request due? | [`clock`] |
//! | what is sent, and what is the outcome called? | [`request`] |
//! | how is A broken meanwhile? | [`faults`] |
//! | what is counted? | [`tally`] |
//! | what is shown? | [`progress`], [`report`] |

use std::ffi::OsString;
use std::io::Write;
use std::time::{Duration, Instant};

use observability::Error;
use observability::server::ShutdownSignals;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval_at};

use clock::{Clock, Schedule};
use faults::{Faults, PHASES};
use progress::{Now, Progress};
use report::Report;
use request::{Done, Requester, endpoint, shown};
use settings::Settings;
use tally::Tally;

mod clock;
mod faults;
mod progress;
mod report;
mod request;
mod settings;
mod tally;

/// The whole of `lab load`.
pub(crate) async fn run(args: impl Iterator<Item = OsString>) -> Result<(), Error> {
    let settings = Settings::from_args(std::iter::once("lab load".into()).chain(args))?;
    let mut signals = ShutdownSignals::new()?;
    let mut load = Load::new(settings)?;
    let end = load.send(&mut signals).await?;
    if let Some(faults) = &mut load.faults {
        faults.stop();
    }
    load.finish(&mut signals).await;
    load.report(&end).await
}

/// How the sending ended.
struct End {
    how: String,
    elapsed: Duration,
}

struct Load {
    settings: Settings,
    /// The target for a person.
    target: String,
    requester: Requester,
    in_flight: JoinSet<Done>,
    tally: Tally,
    faults: Option<Faults>,
    progress: Progress,
    shown: Instant,
}

impl Load {
    fn new(settings: Settings) -> Result<Self, Error> {
        let progress = Progress::new(settings.duration);
        let warn = |progress: Progress| {
            move |problem: &str| progress.say(format_args!("faults: {problem}"))
        };
        let faults = match &settings.service_a {
            Some(url) => Some(Faults::start(url, PHASES, warn(progress.clone()))?),
            None => None,
        };
        Ok(Self {
            target: shown(&endpoint(&settings.target, "call-echo")),
            requester: Requester::new(&settings.target, settings.timeout)?,
            in_flight: JoinSet::new(),
            tally: Tally::new()?,
            faults,
            progress,
            settings,
            shown: Instant::now(),
        })
    }

    /// Sends what is due until the time is over or a signal comes.
    async fn send(&mut self, signals: &mut ShutdownSignals) -> Result<End, Error> {
        let Settings { rate, duration, .. } = self.settings;
        self.greet();
        let start = Instant::now();
        let mut clock = Clock::start(Schedule { rate, duration }, start)?;
        let period = self.progress.interval();
        let mut show = interval_at(tokio::time::Instant::now() + period, period);
        show.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let how = loop {
            tokio::select! {
                due = clock.next() => match due {
                    Some(due) => self.send_one(due),
                    None => break "done".to_owned(),
                },
                Some(done) = self.in_flight.join_next() => self.count(done),
                _ = show.tick() => self.show(start),
                signal = signals.recv() => break format!("stopped by {signal}"),
            }
        };
        let elapsed = start.elapsed();
        let waiting = self.in_flight.len();
        if waiting > 0 {
            self.progress.say(format_args!("{how}, waiting for {waiting} in flight"));
        }
        Ok(End { how, elapsed })
    }

    fn greet(&self) {
        let Settings { rate, duration, .. } = self.settings;
        let until = match duration {
            Some(duration) => format!("for {}", humantime::format_duration(duration)),
            None => "until stopped".to_owned(),
        };
        let rate = report::number(rate);
        self.progress.say(format_args!("{rate} requests/s to {} {until}", self.target));
    }

    fn send_one(&mut self, due: Instant) {
        if self.in_flight.len() >= self.settings.max_in_flight {
            self.tally.not_sent();
            return;
        }
        self.tally.sent(due.elapsed());
        self.in_flight.spawn(self.requester.clone().send(due));
    }

    fn count(&mut self, done: Result<Done, tokio::task::JoinError>) {
        match done {
            Ok(done) => self.tally.done(done),
            Err(_) => self.tally.unfinished += 1,
        }
    }

    fn show(&mut self, start: Instant) {
        let since = self.shown.elapsed();
        self.shown = Instant::now();
        let now = Now {
            elapsed: start.elapsed(),
            since,
            in_flight: self.in_flight.len(),
            faults: self.faults.as_ref().map(Faults::phase),
        };
        self.tally.recent(|recent| self.progress.show(recent, &now));
    }

    /// Waits for the requests in flight, each for its time budget at most; a signal cuts them off.
    async fn finish(&mut self, signals: &mut ShutdownSignals) {
        loop {
            tokio::select! {
                done = self.in_flight.join_next() => match done {
                    Some(done) => self.count(done),
                    None => return,
                },
                _ = signals.recv() => self.in_flight.abort_all(),
            }
        }
    }

    async fn report(self, end: &End) -> Result<(), Error> {
        let faults = match self.faults {
            Some(faults) => Some(faults.stopped().await),
            None => None,
        };
        self.progress.finish();
        let report = Report {
            target: &self.target,
            end: &end.how,
            elapsed: end.elapsed,
            rate: self.settings.rate,
            max_in_flight: self.settings.max_in_flight,
            tally: &self.tally,
            faults: faults.as_ref(),
        };
        // Who closed stdout does not want to read it.
        let mut stdout = std::io::stdout().lock();
        let _ = stdout.write_all(report.to_string().as_bytes()).and_then(|()| stdout.flush());
        if self.tally.b_never_answered() {
            let target = shown(&self.settings.target);
            return Err(Error::other(format!(
                "lab load: service B never answered at {target}; is it running? `cargo run` starts it"
            )));
        }
        Ok(())
    }
}
