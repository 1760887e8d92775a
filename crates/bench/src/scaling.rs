//! Scaling: CPU time per request by connections and routes, memory by requests, `/metrics` by series.
//! Startup time and idle memory.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use testkit::http::Request;
use testkit::{Process, ProcessBuilder};

use crate::args::Options;
use crate::interleave::{Candidate, Sample, interleave, median, summary};
use crate::load::wrk;
use crate::process::{helper, resident_mib, stop};
use crate::services::{BASELINE, FULL, MeasuredService, SERVICE_A};

/// Number of requests over which memory is observed.
const REQUESTS: f64 = 10_000_000.0;

/// Media types of `/metrics`, without their parameters that have defaults.
const FORMATS: [&str; 3] = [
    "text/plain",
    "application/openmetrics-text",
    "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited",
];

/// Measures and prints everything.
pub(crate) fn run(options: &Options) -> Result<()> {
    let receiver = helper(&["receiver"])?.serve();
    let instrumented = |args: &[&str]| Ok(FULL.configure(helper(args)?, &receiver.url()));
    let service_a = || instrumented(&["instrumented", "a"]);
    print_startup(service_a, options.rounds)?;

    println!(
        "\nconnections  CPU us/request: baseline  instrumented  ratio  requests/s  resident MiB"
    );
    for connections in [1, 10, 100, 1000] {
        let baseline = helper(&["baseline", "a"])?.serve();
        let service_a = service_a()?.serve();
        let (cpu, instrumented) =
            compare(baseline, service_a, SERVICE_A, connections, options.seconds)?;
        println!(
            "{connections:11}  {cpu}  {:10.0}  {:12.1}",
            instrumented.per_second, instrumented.resident_mib
        );
    }

    println!(
        "\nroutes  series  CPU us/request: baseline  instrumented  ratio   \
         text ms  OpenMetrics  protobuf  resident MiB"
    );
    for routes in [10, 600, 10_000] {
        let count = routes.to_string();
        let baseline = helper(&["baseline-routes", &count])?.serve();
        let instrumented = instrumented(&["routes", &count])?.serve();
        // Creates the series of each route.
        for n in 0..routes {
            let response = instrumented.get(&format!("/r/{n}"));
            ensure!(response.status == 200, "{response:?}");
        }
        let page = instrumented.get("/metrics");
        let series = page.text().lines().filter(|line| !line.starts_with('#')).count();
        let scrape_ms: String =
            FORMATS.map(|format| format!("  {:8.1}", scrape_ms(&instrumented, format))).concat();
        let service = MeasuredService { path: "/r/7", ..SERVICE_A };
        let (cpu, instrumented) =
            compare(baseline, instrumented, service, options.connections, options.seconds)?;
        println!("{routes:6}  {series:6}  {cpu}{scrape_ms}  {:12.1}", instrumented.resident_mib);
    }

    print_memory(&service_a()?.serve(), options.connections)
}

fn print_startup(builder: impl Fn() -> Result<ProcessBuilder>, rounds: u32) -> Result<()> {
    let (mut startup_ms, mut idle_mib) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let builder = builder()?;
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

/// Returns the median time of a scrape in this format.
fn scrape_ms(process: &Process, format: &str) -> f64 {
    median((0..5).map(|_| {
        let scrape = Request::new("GET", "/metrics").header("Accept", format);
        scrape.send(process.address()).elapsed.as_secs_f64() * 1e3
    }))
}

fn print_memory(process: &Process, connections: usize) -> Result<()> {
    println!("\nrequests so far  resident MiB");
    let url = format!("{}{}", process.url(), SERVICE_A.path);
    let mut requests = 0.0;
    for tenth in 1..=10 {
        while requests < REQUESTS / 10.0 * f64::from(tenth) {
            requests += wrk(&url, connections, 5)?.requests;
        }
        println!("{requests:15.0}  {:12.1}", resident_mib(process));
    }
    stop(process)
}

/// Loads both processes. Returns the columns of the CPU time, and the sample of `instrumented`.
fn compare(
    baseline: Process,
    instrumented: Process,
    service: MeasuredService,
    connections: usize,
    turns: u32,
) -> Result<(String, Sample)> {
    let candidates = [(BASELINE, baseline), (FULL, instrumented)].map(|(variant, process)| {
        let url = process.url();
        Candidate::new(variant, process, url)
    });
    let samples = interleave(candidates.into(), service, connections, turns)?;
    let (baseline, cpu) = (samples[0].cpu_us, samples[1].cpu_us);
    Ok((format!("{baseline:24.1}  {cpu:12.1}  {:5.2}", cpu / baseline), samples[1]))
}
