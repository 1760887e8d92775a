//! Scaling: CPU time per request by connections and routes, memory by requests, `/metrics` by series.
//! Startup time and idle memory.

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use testkit::http::Connection;
use testkit::{Process, ProcessBuilder};

use crate::args::Options;
use crate::baseline;
use crate::interleave::{Sample, interleave, min_median_max};
use crate::load::wrk;
use crate::process::{helper, resident_mib, stop};
use crate::services::{MeasuredService, Variant, variables};

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
    let variables = variables(Variant::Full, &receiver.url());
    let with_telemetry = |builder: ProcessBuilder| builder.envs(variables.clone());

    let service_a = || helper(&["service-a"]).map(with_telemetry);
    print_startup(service_a, options.rounds)?;

    println!(
        "\nconnections  CPU us/request: baseline  instrumented  ratio  requests/s  resident MiB"
    );
    for connections in [1, 10, 100, 1000] {
        let baseline = helper(&["baseline-a"])?.serve();
        let path = MeasuredService::A.path();
        let (cpu, instrumented) =
            compare(baseline, service_a()?.serve(), path, connections, options.seconds)?;
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
        let instrumented = with_telemetry(helper(&["routes", &count])?).serve();
        request_each_route(&instrumented, routes)?;
        let scrapes: Vec<_> = (0..5).map(|_| instrumented.get("/metrics")).collect();
        let series = scrapes[0].text().lines().filter(|line| !line.starts_with('#')).count();
        let (_, scrape_ms, _) =
            min_median_max(scrapes.iter().map(|scrape| scrape.elapsed.as_secs_f64() * 1e3));
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
    let show = |values| {
        let (min, median, max) = min_median_max(values);
        format!("{median:.1} [{min:.1}..{max:.1}]")
    };
    println!("startup: {} ms until listening, {} MiB idle", show(startup_ms), show(idle_mib));
    Ok(())
}

fn print_memory(process: &Process, connections: usize) -> Result<()> {
    println!("\nrequests so far  resident MiB");
    let url = format!("{}{}", process.url(), MeasuredService::A.path());
    let mut requests = 0.0;
    while requests < REQUESTS {
        let next = requests + REQUESTS / 10.0;
        while requests < next {
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
    let processes = vec![(Variant::Baseline, baseline), (Variant::Full, instrumented)];
    let [baseline, instrumented] = interleave(processes, path, connections, turns)?[..] else {
        bail!("expected two samples");
    };
    let (baseline, cpu) = (baseline.cpu_us, instrumented.cpu_us);
    Ok((format!("{baseline:24.1}  {cpu:12.1}  {:5.2}", cpu / baseline), instrumented))
}

/// Sends one request to each route to create its series.
fn request_each_route(process: &Process, routes: usize) -> Result<()> {
    let mut connection = Connection::open(process.address());
    for n in 0..routes {
        connection.send(format!("GET /r/{n} HTTP/1.1\r\nHost: bench\r\n\r\n").as_bytes());
        let status = connection.response()?.status;
        ensure!(status == 200, "status {status} for /r/{n}");
    }
    Ok(())
}
