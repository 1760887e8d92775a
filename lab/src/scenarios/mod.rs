//! Tests of services A and B in eight suites, against a system that the run starts or against one that runs.

use std::ffi::OsString;
use std::io::{IsTerminal, stdin, stdout};

use observability::Error;
use observability::server::ShutdownSignals;

use args::Args;
use client::Client;
use external_system::ExternalSystem;
use own_system::OwnSystem;
use report::{Outcome, Report, SuiteReport, TestReport};
use suites::{SUITES, Service, Test};
use witnesses::{Witnesses, read_counts};

use crate::http::redacted;
use crate::terminal::{paint, print_line};

mod args;
mod client;
mod expectations;
mod external_system;
mod own_system;
mod report;
mod stand_in;
mod suites;
mod witnesses;

/// Runs `lab scenarios`.
pub(crate) async fn run(args: impl Iterator<Item = OsString>) -> Result<(), Error> {
    let args: Args = observability::parse(std::iter::once("lab scenarios".into()).chain(args))?;
    let mut signals = ShutdownSignals::new()?;
    let mut run = tokio::select! {
        run = Run::start(&args) => run?,
        signal = signals.recv() => return Err(aborted(signal)),
    };
    let report = tokio::select! {
        report = run.run_suites() => report,
        signal = signals.recv() => Err(aborted(signal)),
    };
    // A reader of a pipe waits for the end of the output, so that only a user who sees all of it can end the run.
    let is_interactive = stdin().is_terminal() && stdout().is_terminal();
    let keeps_traces = args.explain && !args.json && is_interactive;
    if report.is_ok() && keeps_traces {
        print_line("The traces are kept until Ctrl-C.");
        signals.recv().await;
    }
    let stopped = tokio::select! {
        stopped = run.stop() => stopped,
        signal = signals.recv() => Err(aborted(signal)),
    };
    stopped?;
    report?.check()
}

fn aborted(signal: &str) -> Error {
    Error::other(format!("lab scenarios: aborted by {signal}"))
}

/// System under test.
enum System {
    Own(Box<OwnSystem>),
    External(ExternalSystem),
}

struct Run<'a> {
    args: &'a Args,
    client: Client,
    system: System,
}

impl<'a> Run<'a> {
    async fn start(args: &'a Args) -> Result<Self, Error> {
        if let (Some(a), Some(b)) = (&args.service_a, &args.service_b) {
            let client = Client::new(args, a.clone(), b.clone())?;
            let system = ExternalSystem::detect(&client, args.time_limit).await;
            return Ok(Self { args, client, system: System::External(system) });
        }
        let system = OwnSystem::start(args.time_limit).await?;
        let client = Client::new(args, system.url(Service::A)?, system.url(Service::B)?)?;
        Ok(Self { args, client, system: System::Own(Box::new(system)) })
    }

    async fn run_suites(&mut self) -> Result<Report, Error> {
        let mut report = Report {
            service_a: redacted(&self.client.service_a),
            service_b: redacted(&self.client.service_b),
            passed: 0,
            failed: 0,
            skipped: 0,
            suites: Vec::new(),
        };
        let is_text = !self.args.json;
        if is_text {
            let state = |service| match &self.system {
                System::External(system) if !system.is_up(service) => ", which is down",
                _ => "",
            };
            print_line(format_args!("service A  {}{}", report.service_a, state(Service::A)));
            print_line(format_args!("service B  {}{}", report.service_b, state(Service::B)));
        }
        for suite in SUITES {
            if is_text {
                print_line(format_args!("\n{}", paint("1", suite.name)));
            }
            report.suites.push(SuiteReport { name: suite.name, tests: Vec::new() });
            for test in suite.tests {
                let result = self.run_test(test).await?;
                if is_text {
                    result.print();
                }
                report.add(result);
            }
        }
        if is_text {
            report.print_summary();
        } else {
            print_line(serde_json::to_string_pretty(&report).map_err(Error::other)?);
        }
        Ok(report)
    }

    async fn run_test(&mut self, test: &Test) -> Result<TestReport, Error> {
        match &mut self.system {
            System::Own(system) => system.enter(&self.client.http, test.state).await?,
            System::External(system) => {
                if let Err(reason) = system.enter(&self.client, test.state).await {
                    return Ok(TestReport::skipped(test.name, reason));
                }
            }
        }
        let counts = if self.args.explain && test.is_failed_call() {
            Some(read_counts(&self.client).await)
        } else {
            None
        };
        let mut results =
            self.client.send_all(&test.request).await.into_iter().map(|(msg, result)| {
                let checked = test.expected.check(test.request.service, &msg, &result);
                (checked.err(), result.ok())
            });
        // The first failure, or the first response if there is no failure.
        let first = results.next().unwrap_or_default();
        let (reason, response) = match first {
            (None, _) => results.find(|(reason, _)| reason.is_some()).unwrap_or(first),
            failure => failure,
        };
        let mut report = TestReport {
            name: test.name,
            result: Outcome::Passed,
            reason,
            response,
            witnesses: None,
        };
        if let (System::Own(system), Some(counts)) = (&mut self.system, counts)
            && let Some(response) = &report.response
        {
            let witnesses = match counts {
                Ok(counts) => Witnesses::collect(system, &self.client, &counts, response).await,
                Err(error) => Err(error),
            };
            let checked = witnesses.as_ref().map_err(Clone::clone).and_then(Witnesses::check);
            report.reason = report.reason.or(checked.err());
            report.witnesses = witnesses.ok();
        }
        if report.reason.is_some() {
            report.result = Outcome::Failed;
        }
        Ok(report)
    }

    /// Stops what the run has started, and clears the faults that it has set.
    async fn stop(self) -> Result<(), Error> {
        match self.system {
            System::Own(system) => system.stop().await,
            System::External(mut system) => {
                let cleared = system.clear_fault(&self.client).await;
                cleared.map_err(|error| {
                    Error::other(format!("lab scenarios: A may still be faulty: {error}"))
                })?;
            }
        }
        Ok(())
    }
}
