//! What must not grow: CPU per request with connections and routes, memory with requests, `/metrics`
//! with series; and how a service starts and idles.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;

use crate::load::wrk;
use crate::process::Process;
use crate::services::{Service, Variant, variables};
use crate::turns::{Sample, in_turns, spread};
use crate::{Options, Result};

/// Over so many requests memory is watched.
const REQUESTS: f64 = 10_000_000.0;

/// Service A's telemetry around so many routes.
pub(crate) fn serve_routes(count: &str) -> Result<()> {
    let count: usize = count.parse()?;
    let args: service_a::Args = service_a::SERVICE.parse(["routes".into()])?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let telemetry = observability::init(service_a::SERVICE, &args.config)?;
        Ok(telemetry.serve(routes(count)).await?)
    })
}

/// The same routes with nothing around them.
pub(crate) fn bare_routes(count: &str) -> Result<Router> {
    Ok(routes(count.parse()?))
}

fn routes(count: usize) -> Router {
    (0..count).fold(Router::new(), |router, n| router.route(&format!("/r/{n}"), get(async || "ok")))
}

/// All of it, printed.
pub(crate) fn run(options: &Options) -> Result<()> {
    let receiver = Process::this(&["receiver"], &[])?;
    let receiver = receiver.url();
    let variables = variables(Variant::Full, &receiver);
    let start = || Process::this(&["service-a"], &variables);

    let (mut ready, mut idle) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        let process = start()?;
        ready.push(process.start_time.as_secs_f64() * 1e3);
        thread::sleep(Duration::from_millis(500));
        idle.push(process.resident_mib()?);
        process.stop()?;
    }
    println!("start: {} until it listens, {} MiB idle", show(ready, "ms"), show(idle, ""));

    println!("\nconnections  CPU us/request: bare  ours  ratio  requests/s  resident MiB");
    for connections in [1, 10, 100, 1000] {
        let bare = Process::this(&["bare-a"], &[])?;
        let (cpu, ours) =
            beside_bare(bare, start()?, Service::A.path(), connections, options.seconds)?;
        println!("{connections:11}  {cpu}  {:10.0}  {:12.1}", ours.per_second, ours.resident_mib);
    }

    println!("\nroutes  series  CPU us/request: bare  ours  ratio  /metrics ms  resident MiB");
    for routes in [10, 600, 10_000] {
        let count = routes.to_string();
        let bare = Process::this(&["bare-routes", &count], &[])?;
        let ours = Process::this(&["routes", &count], &variables)?;
        touch(&ours, routes)?;
        let mut times = Vec::new();
        let mut series = 0;
        for _ in 0..5 {
            let asked = Instant::now();
            let page = ours.get("/metrics")?;
            times.push(asked.elapsed().as_secs_f64() * 1e3);
            series = page.lines().filter(|line| !line.starts_with('#')).count();
        }
        let (cpu, ours) = beside_bare(bare, ours, "/r/7", options.connections, options.seconds)?;
        println!(
            "{routes:6}  {series:6}  {cpu}  {:11.1}  {:12.1}",
            spread(times).1,
            ours.resident_mib
        );
    }

    println!("\nrequests so far  resident MiB");
    let process = start()?;
    let url = format!("{}{}", process.url(), Service::A.path());
    let mut requests = 0.0;
    while requests < REQUESTS {
        let until = requests + REQUESTS / 10.0;
        while requests < until {
            requests += wrk(&url, options.connections, 5)?.requests;
        }
        println!("{requests:15.0}  {:12.1}", process.resident_mib()?);
    }
    process.stop()
}

/// Loads both in turns: the columns of CPU, and what ours did.
fn beside_bare(
    bare: Process,
    ours: Process,
    path: &str,
    connections: usize,
    turns: u32,
) -> Result<(String, Sample)> {
    let processes = vec![(Variant::Bare, bare), (Variant::Full, ours)];
    match in_turns(processes, path, connections, turns)?[..] {
        [bare, ours] => {
            let (bare, cpu) = (bare.cpu_us, ours.cpu_us);
            Ok((format!("{bare:20.1}  {cpu:4.1}  {:5.2}", cpu / bare), ours))
        }
        _ => Err("two samples are missing".into()),
    }
}

fn show(values: Vec<f64>, unit: &str) -> String {
    let (low, middle, high) = spread(values);
    format!("{middle:.1} [{low:.1}..{high:.1}] {unit}").trim_end().to_owned()
}

/// Asks each route once, so that each has its series.
fn touch(process: &Process, routes: usize) -> Result<()> {
    let mut stream = TcpStream::connect(process.address)?;
    let mut buffer = [0; 4096];
    for n in 0..routes {
        // In one piece: the kernel would hold a second one back until the first is acknowledged.
        let request = format!("GET /r/{n} HTTP/1.1\r\nHost: bench\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let length = stream.read(&mut buffer)?;
        if !buffer[..length].starts_with(b"HTTP/1.1 200 ") {
            return Err(format!("/r/{n}: {}", String::from_utf8_lossy(&buffer[..length])).into());
        }
    }
    Ok(())
}
