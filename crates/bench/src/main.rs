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
mod interleave;
mod load;
mod process;
mod receiver;
mod scaling;
mod services;
mod spans;

use args::{Args, Command};

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let command = args.command.unwrap_or(Command::Compare(args.options));
    if cfg!(debug_assertions) && matches!(command, Command::Compare(_) | Command::Scaling(_)) {
        eprintln!("bench: this is a debug build, figures are meaningful only with --release");
    }
    match command {
        Command::Compare(options) => compare::run(&options)?,
        Command::Instructions { names } => instructions::run(&names)?,
        Command::CheckBudget => instructions::check_budget()?,
        Command::Scaling(options) => scaling::run(&options)?,
        Command::ServiceA => return Ok(service_a::main(["service-a".into()])),
        Command::ServiceB => return Ok(service_b::main(["service-b".into()])),
        Command::Routes { count } => return Ok(scaling::serve_routes(count)),
        Command::BaselineA => baseline::serve(baseline::service_a())?,
        Command::BaselineB { service_a_url } => {
            baseline::serve(baseline::service_b(&service_a_url)?)?;
        }
        Command::BaselineRoutes { count } => baseline::serve(baseline::routes(count))?,
        Command::Receiver => receiver::serve()?,
    }
    Ok(ExitCode::SUCCESS)
}
