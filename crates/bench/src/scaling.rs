//! Scaling: CPU time per request by connections and routes, memory by requests, `/metrics` by series.
//! Startup time and idle memory.

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use testkit::{Process, ProcessBuilder};

use crate::args::Options;
use crate::baseline;
use crate::interleave::{Sample, interleave, median, summary};
use crate::load::wrk;
use crate::process::{helper, resident_mib, stop};
use crate::services::{BASELINE, FULL, SERVICE_A};

/// Number of requests over which memory is observed.
const REQUESTS: f64 = 10_000_000.0;

/// Serves `count` routes with the telemetry of service A.
pub(crate) fn serve_routes(count: usize) -> ExitCode {
    observability::run(async {
        let args: service_a::Args = service_a::SERVICE.parse(["routes".into()])?;
        let telemetry = observability::init(service_a::SERVICE, &args.config)?;
        telemetry.serve(baseline::routes(count)).await
    })
}

/// Measures and prints everything.
pub(crate) fn run(options: &Options) -> Result<()> {
    let receiver = helper(&["receiver"])?.serve();
    let instrumented = |args: &[&str]| Ok(FULL.configure(helper(args)?, &receiver));
    let service_a = || instrumented(&["service-a"]);
    print_startup(service_a, options.rounds)?;

    println!(
        "\nconnections  CPU us/request: baseline  instrumented  ratio  requests/s  resident MiB"
    );
    for connections in [1, 10, 100, 1000] {
        let baseline = helper(&["baseline-a"])?.serve();
        let service_a = service_a()?.serve();
        let (cpu, instrumented) =
            compare(baseline, service_a, SERVICE_A.path, connections, options.seconds)?;
        println!(
            "{connections:11}  {cpu}  {:10.0}  {:12.1}",
            instrumented.per_second, instrumented.resident_mib
        );
    }

    println!(
        "\nroutes  series  CPU us/request: baseline  instrumented  ratio  /metrics ms  resident MiB"
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
        let scrapes: Vec<_> = (0..5).map(|_| instrumented.get("/metrics")).collect();
        let series = scrapes[0].text().lines().filter(|line| !line.starts_with('#')).count();
        let scrape_ms = median(scrapes.iter().map(|scrape| scrape.elapsed.as_secs_f64() * 1e3));
        let (cpu, instrumented) =
            compare(baseline, instrumented, "/r/7", options.connections, options.seconds)?;
        println!(
            "{routes:6}  {series:6}  {cpu}  {scrape_ms:11.1}  {:12.1}",
            instrumented.resident_mib
        );
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
    path: &str,
    connections: usize,
    turns: u32,
) -> Result<(String, Sample)> {
    let processes = vec![(BASELINE, baseline), (FULL, instrumented)];
    let samples = interleave(processes, path, connections, turns)?;
    let (baseline, cpu) = (samples[0].cpu_us, samples[1].cpu_us);
    Ok((format!("{baseline:24.1}  {cpu:12.1}  {:5.2}", cpu / baseline), samples[1]))
}
