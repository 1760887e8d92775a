//! Scaling: CPU time per request by connections and routes, memory by requests, `/metrics` by series.
//! Startup time and idle memory.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::ValueEnum as _;
use testkit::{Process, ProcessBuilder};

use crate::args::{Part, ScalingOptions};
use crate::interleave::{Candidate, Sample, interleave};
use crate::load::load;
use crate::process::{helper, resident_mib, stop};
use crate::scrape;
use crate::services::{BASELINE, FULL, MeasuredService, SERVICE_A};
use crate::stats::summary;

/// Number of routes with which `/metrics` has 10,000 series.
const ROUTES: usize = 410;

struct Scaling<'a> {
    receiver: Process,
    service_a: MeasuredService,
    options: &'a ScalingOptions,
}

/// Measures and prints the parts that are selected, or all of them.
pub(crate) fn run(options: &ScalingOptions) -> Result<()> {
    let receiver = helper(&["receiver"])?.serve();
    let service_a = MeasuredService { protocol: options.protocol, ..SERVICE_A };
    let scaling = Scaling { receiver, service_a, options };
    let all = Part::value_variants();
    let parts = if options.parts.is_empty() { all } else { &options.parts };
    for part in parts {
        match part {
            Part::Startup => scaling.print_startup()?,
            Part::Connections => scaling.print_connections()?,
            Part::Routes => scaling.print_routes()?,
            Part::Scrapes => scaling.print_scrapes()?,
            Part::Memory => scaling.print_memory()?,
        }
    }
    Ok(())
}

impl Scaling<'_> {
    fn instrumented(&self, args: &[&str]) -> Result<ProcessBuilder> {
        Ok(FULL.configure(helper(args)?, &self.receiver.url()))
    }

    fn print_startup(&self) -> Result<()> {
        let (mut startup_ms, mut idle_mib) = (Vec::new(), Vec::new());
        for _ in 0..self.options.load.rounds {
            let builder = self.instrumented(&["instrumented", "a"])?;
            let started = Instant::now();
            let process = builder.serve();
            startup_ms.push(started.elapsed().as_secs_f64() * 1e3);
            thread::sleep(Duration::from_millis(500));
            idle_mib.push(resident_mib(&process));
            stop(&process)?;
        }
        let (startup_ms, idle_mib) = (summary(startup_ms, 1), summary(idle_mib, 1));
        println!("startup: {startup_ms} ms until listening, {idle_mib} MiB idle");
        Ok(())
    }

    fn print_connections(&self) -> Result<()> {
        println!(
            "\nconnections  CPU us/request: baseline  instrumented  ratio  requests/s  resident MiB"
        );
        for connections in [1, 10, 100, 1000] {
            let baseline = helper(&["baseline", "a"])?.serve();
            let instrumented = self.instrumented(&["instrumented", "a"])?.serve();
            let (cpu, Sample { per_second, resident_mib, .. }) =
                self.compare(baseline, instrumented, self.service_a, connections)?;
            println!("{connections:11}  {cpu}  {per_second:10.0}  {resident_mib:12.1}");
        }
        Ok(())
    }

    fn print_routes(&self) -> Result<()> {
        println!(
            "\nroutes  series  CPU us/request: baseline  instrumented  ratio   \
             text ms  OpenMetrics  protobuf  resident MiB"
        );
        for routes in [10, ROUTES, 10_000] {
            let count = routes.to_string();
            let baseline = helper(&["baseline-routes", &count])?.serve();
            let instrumented = self.instrumented(&["routes", &count])?.serve();
            let series = scrape::create_series(&instrumented, routes)?;
            let [text, openmetrics, protobuf] = scrape::durations_ms(&instrumented);
            let service = MeasuredService { path: "/r/7", ..self.service_a };
            let connections = self.options.load.connections;
            let (cpu, Sample { resident_mib, .. }) =
                self.compare(baseline, instrumented, service, connections)?;
            let goal = if routes == ROUTES { "  goal of /metrics 5 ms" } else { "" };
            println!(
                "{routes:6}  {series:6}  {cpu}  {text:8.1}  {openmetrics:11.1}  {protobuf:8.1}  \
                 {resident_mib:12.1}{goal}"
            );
        }
        Ok(())
    }

    fn print_scrapes(&self) -> Result<()> {
        let builder = || self.instrumented(&["routes", &ROUTES.to_string()]);
        let processes = [builder()?.serve(), builder()?.serve()];
        for process in &processes {
            let series = scrape::create_series(process, ROUTES)?;
            ensure!(series >= 10_000, "/metrics has only {series} series");
        }
        let [process, other] = processes;
        scrape::print_effect(&process, &other, self.options.load.seconds)
    }

    fn print_memory(&self) -> Result<()> {
        println!("\nrequests so far  resident MiB");
        let process = self.instrumented(&["instrumented", "a"])?.serve();
        let url = format!("{}{}", process.url(), self.service_a.path);
        let mut requests = 0.0;
        for tenth in 1..=10 {
            while requests < f64::from(self.options.requests) / 10.0 * f64::from(tenth) {
                let connections = self.options.load.connections;
                requests += load(self.options.protocol, &url, connections, 5)?.requests;
            }
            println!("{requests:15.0}  {:12.1}", resident_mib(&process));
        }
        stop(&process)
    }

    /// Loads both processes. Returns the columns of the CPU time, and the sample of `instrumented`.
    fn compare(
        &self,
        baseline: Process,
        instrumented: Process,
        service: MeasuredService,
        connections: usize,
    ) -> Result<(String, Sample)> {
        let candidates = [(BASELINE, baseline), (FULL, instrumented)];
        let candidates = candidates.map(|(variant, process)| Candidate::new(variant, process));
        let samples =
            interleave(candidates.into(), service, connections, self.options.load.seconds)?;
        let (baseline, cpu) = (samples[0].cpu_us, samples[1].cpu_us);
        Ok((format!("{baseline:24.1}  {cpu:12.1}  {:5.2}", cpu / baseline), samples[1]))
    }
}
