//! Comparison of the embedded Jaeger with a real one on the spans of service B: CPU time, memory, and the search
//! that Jaeger's UI opens with.

use std::env;
use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use testkit::{Process, RealJaeger, http};

use crate::args::LoadOptions;
use crate::load::load;
use crate::process::{cpu_seconds, helper, resident_mib, wait_for_export};
use crate::services::{FULL, SERVICE_B};
use crate::stats::{Sorted, median, summary};

/// Traces that both keep, which is the default of the embedded Jaeger.
const MAX_TRACES: u32 = 50_000;
/// Number of searches.
const SEARCHES: usize = 100;
const SEARCH: &str = "/api/traces?service=service-b&limit=20&lookback=1h";

/// A running Jaeger.
struct Jaeger {
    process: Process,
    otlp_grpc: SocketAddr,
    ui: SocketAddr,
}

/// Measurements of one round.
struct Sample {
    cpu_us: f64,
    resident_mib: f64,
    search_ms: Vec<f64>,
}

/// Measures and prints both. The variable `JAEGER` is the path of the real one.
pub(crate) fn run(options: &LoadOptions) -> Result<()> {
    let program = env::var("JAEGER").context("JAEGER, which .ci/go-backend jaeger prints")?;
    let (mut embedded, mut real) = (Vec::new(), Vec::new());
    for number in 1..=options.rounds {
        embedded.push(measure(&start_embedded()?, options)?);
        real.push(measure(&start_real(&program), options)?);
        eprintln!("round {number} of {} completed", options.rounds);
    }
    println!("          CPU us/span        resident MiB       search: p50 ms  p99 ms");
    for (name, rounds) in [("embedded", &embedded), ("real", &real)] {
        let searches: Sorted = rounds.iter().flat_map(|round| &round.search_ms).copied().collect();
        let [p50, p99] = [0.5, 0.99].map(|share| searches.quantile(share));
        let cpu = summary(rounds.iter().map(|round| round.cpu_us), 1);
        let memory = summary(rounds.iter().map(|round| round.resident_mib), 0);
        println!("{name:8}  {cpu:17}  {memory:17}  {p50:14.1}  {p99:6.1}");
    }
    let ratio = |value: fn(&Sample) -> f64| {
        median(embedded.iter().map(value)) / median(real.iter().map(value))
    };
    let (cpu, memory) = (ratio(|sample| sample.cpu_us), ratio(|sample| sample.resident_mib));
    println!(
        "embedded/real: CPU {cpu:.2}, memory {memory:.2}; goal 0.33, and a search p99 of 50 ms"
    );
    Ok(())
}

fn start_embedded() -> Result<Jaeger> {
    let process = helper(&["receiver"])?.serve();
    let (otlp_grpc, ui) = (process.address(), process.admin_address());
    Ok(Jaeger { process, otlp_grpc, ui })
}

fn start_real(program: &str) -> Jaeger {
    let RealJaeger { process, otlp_grpc, ui, .. } =
        RealJaeger::start(program, MAX_TRACES, &["batch"]);
    Jaeger { process, otlp_grpc, ui }
}

/// Fills the store of `jaeger` with the spans of service B, and searches it.
fn measure(jaeger: &Jaeger, options: &LoadOptions) -> Result<Sample> {
    let service_a = helper(&["baseline", "a"])?.serve();
    let service_b = FULL
        .configure(helper(&SERVICE_B.command(FULL))?, &format!("http://{}", jaeger.otlp_grpc))
        .env("SERVICE_A_URL", service_a.url())
        .serve();
    let cpu_before = cpu_seconds(&jaeger.process)?;
    // A single connection, so that no span is dropped.
    let url = format!("{}{}", service_b.url(), SERVICE_B.path);
    load(SERVICE_B.protocol, &url, 1, options.seconds)?;
    let spans = wait_for_export(&service_b)?;
    ensure!(spans > 2.0 * f64::from(MAX_TRACES), "{spans} spans do not fill the store");
    let cpu_us = (cpu_seconds(&jaeger.process)? - cpu_before) * 1e6 / spans;
    let search = || -> Result<f64> {
        let response = http::get(jaeger.ui, SEARCH);
        ensure!(response.status == 200, "{response:?}");
        Ok(response.elapsed.as_secs_f64() * 1e3)
    };
    let search_ms = (0..SEARCHES).map(|_| search()).collect::<Result<_>>()?;
    Ok(Sample { cpu_us, resident_mib: resident_mib(&jaeger.process), search_ms })
}
