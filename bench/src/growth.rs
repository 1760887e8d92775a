//! What must not grow: CPU per request with connections and routes, memory with requests, `/metrics`
//! with series; and how a service starts and idles.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;

use crate::compare::{Service, Variant, measure, spread, variables};
use crate::process::Process;
use crate::{Options, Result};

/// Service A's telemetry around so many routes.
pub(crate) fn serve_routes(count: &str) -> Result<()> {
    let count: usize = count.parse()?;
    let settings = service_a::Settings::from_args(["routes".into()])?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let telemetry = observability::start(&settings.common)?;
        let routes = (0..count)
            .fold(Router::new(), |router, n| router.route(&format!("/r/{n}"), get(async || "ok")));
        Ok(telemetry.serve(routes).await?)
    })
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

    println!("\nconnections  CPU us/request  requests/s  resident MiB");
    for connections in [1, 10, 100, 1000] {
        let process = start()?;
        let path = Service::A.path();
        let sample = measure(&process, path, Variant::Full, connections, options.seconds)?;
        let (cpu, rate, resident) = (sample.cpu_us, sample.per_second, sample.resident_mib);
        println!("{connections:11}  {cpu:14.1}  {rate:10.0}  {resident:12.1}");
        process.stop()?;
    }

    println!("\nroutes  series  CPU us/request  /metrics ms  resident MiB");
    for routes in [10, 600, 10_000] {
        let process = Process::this(&["routes", &routes.to_string()], &variables)?;
        touch(&process, routes)?;
        let sample =
            measure(&process, "/r/7", Variant::Full, options.connections, options.seconds)?;
        let mut times = Vec::new();
        let mut series = 0;
        for _ in 0..5 {
            let asked = Instant::now();
            let page = process.get("/metrics")?;
            times.push(asked.elapsed().as_secs_f64() * 1e3);
            series = page.lines().filter(|line| !line.starts_with('#')).count();
        }
        let (cpu, resident, (_, time, _)) = (sample.cpu_us, process.resident_mib()?, spread(times));
        println!("{routes:6}  {series:6}  {cpu:14.1}  {time:11.1}  {resident:12.1}");
        process.stop()?;
    }

    println!("\nrequests so far  resident MiB");
    let process = start()?;
    let mut requests = 0.0;
    for _ in 0..5 {
        let path = Service::A.path();
        let sample = measure(&process, path, Variant::Full, options.connections, options.seconds)?;
        requests += sample.per_second * f64::from(options.seconds + 1);
        println!("{requests:15.0}  {:12.1}", process.resident_mib()?);
    }
    process.stop()
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
