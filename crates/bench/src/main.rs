//! Cost of the telemetry, measured against baselines of the two services without it.
//!
//! `cargo run --release -p bench` compares them under load. `-- check-budget` checks instructions and
//! allocations per request against the committed budget. `-- help` lists all commands.

use std::process::ExitCode;

use clap::Parser as _;

mod args;
mod baseline;
mod compare;
mod instructions;
mod instrumented;
mod interleave;
mod jaeger;
mod load;
mod peers;
mod process;
mod scaling;
mod scrape;
mod services;
mod stats;
mod trace_layer;

use args::{Args, Command};

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let command = args.command.unwrap_or(Command::Compare(args.options));
    if cfg!(debug_assertions)
        && matches!(command, Command::Compare(_) | Command::Scaling(_) | Command::Jaeger(_))
    {
        eprintln!("bench: this is a debug build, figures are meaningful only with --release");
    }
    match command {
        Command::Compare(options) => compare::run(&options)?,
        Command::Instructions { names } => instructions::run(&names)?,
        Command::CheckBudget => instructions::check_budget()?,
        Command::Scaling(options) => scaling::run(&options)?,
        Command::Jaeger(options) => jaeger::run(&options)?,
        Command::Instrumented { app } => return Ok(instrumented::serve(app)),
        Command::Routes { count } => {
            return Ok(instrumented::serve_router(baseline::routes(count)));
        }
        Command::Baseline { app } => baseline::serve(baseline::router(app)?)?,
        Command::TraceLayer { app } => {
            baseline::serve(trace_layer::add(baseline::router(app)?)?)?;
        }
        Command::BaselineRoutes { count } => baseline::serve(baseline::routes(count))?,
        Command::Receiver => process::serve_receiver()?,
    }
    Ok(ExitCode::SUCCESS)
}
