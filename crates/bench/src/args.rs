//! Command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

use crate::load::Protocol;
use crate::services::{App, SERVICES};

/// Measures the cost of the telemetry against baselines of the services without it
#[derive(Debug, Parser)]
#[command(name = "bench", args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) options: CompareOptions,
}

/// Options of `compare`.
#[derive(Debug, clap::Args)]
pub(crate) struct CompareOptions {
    #[command(flatten)]
    pub(crate) load: LoadOptions,
    /// Services to compare, all by default
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',')]
    #[arg(value_parser = SERVICES.map(|service| service.name))]
    pub(crate) services: Vec<String>,
    /// Cargo workspace with the programs `bare` and `typical`, to compare services A and B with
    ///
    /// Both serve the same two services, `bare` without telemetry and `typical` with that of other crates. They
    /// are started as `PROGRAM a PORT` and as `PROGRAM b PORT URL_OF_A`, with the OTEL_* variables of the services.
    #[arg(long, value_name = "DIR")]
    pub(crate) peers: Option<PathBuf>,
}

/// Options of `scaling`.
#[derive(Debug, clap::Args)]
pub(crate) struct ScalingOptions {
    /// Measurements to take, all by default
    #[arg(value_name = "NAME")]
    pub(crate) parts: Vec<Part>,
    #[command(flatten)]
    pub(crate) load: LoadOptions,
    /// Version of HTTP for the load
    #[arg(long, value_name = "NAME", value_enum, default_value_t = Protocol::Http1)]
    pub(crate) protocol: Protocol,
    /// Number of requests over which memory is observed
    #[arg(long, value_name = "N", default_value_t = 10_000_000)]
    pub(crate) requests: u32,
}

/// Measurement of `scaling`.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Part {
    /// Time until the service listens, and its memory without requests.
    Startup,
    /// CPU time per request with 1 to 1,000 connections.
    Connections,
    /// CPU time per request and duration of scrapes with 10 to 10,000 routes.
    Routes,
    /// Durations of requests while /metrics with 10,000 series is scraped.
    Scrapes,
    /// Memory after millions of requests.
    Memory,
}

/// Options of the commands that generate load.
#[derive(Debug, clap::Args)]
pub(crate) struct LoadOptions {
    /// Number of rounds
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub(crate) rounds: u32,
    /// Seconds of load for each variant in a round, in turns of one second
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub(crate) seconds: u32,
    /// Number of client connections
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub(crate) connections: usize,
}

/// Measurements, and the helper processes that they start.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Compare CPU, throughput, latency and memory with the baseline (the default; needs wrk and h2load)
    Compare(CompareOptions),
    /// Count instructions and allocations per request (needs valgrind)
    ///
    /// If the variable BENCH_KEEP is set, the callgrind profiles stay in the temporary directory.
    Instructions {
        /// Scenarios to count, all by default
        #[arg(value_name = "NAME")]
        names: Vec<String>,
    },
    /// Check instructions and allocations per request against crates/bench/budget.txt (needs valgrind)
    CheckBudget,
    /// Measure startup, CPU by connections and routes, /metrics by series and memory by requests (needs wrk, or h2load)
    Scaling(ScalingOptions),
    /// Compare the embedded Jaeger with a real one, whose path is in the variable JAEGER (needs wrk)
    Jaeger(LoadOptions),

    #[command(hide = true)]
    Instrumented { app: App },
    #[command(hide = true)]
    Baseline { app: App },
    #[command(hide = true)]
    TraceLayer { app: App },
    #[command(hide = true)]
    Routes { count: usize },
    #[command(hide = true)]
    BaselineRoutes { count: usize },
    #[command(hide = true)]
    Receiver,
}
