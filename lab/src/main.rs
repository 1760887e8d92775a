//! Runs the whole system on one machine, without Docker: service A and service B as child processes
//! and a Jaeger in memory.
//!
//! | module | content |
//! |---|---|
//! | [`supervisor`] | startup, reaction to keys and signals, shutdown in reverse order |
//! | [`process`] | a service as a child process |
//! | [`jaeger`] | destination of the traces |
//! | [`notable_traces`] | traces of the slowest and the failed requests |
//! | [`terminal`] | output |
//! | [`keyboard`] | single keys from the terminal |
//! | [`args`] | command line |
//! | [`load`] | the subcommand `load` |

use std::process::ExitCode;

use observability::Error;

mod args;
mod jaeger;
mod keyboard;
mod load;
mod notable_traces;
mod process;
mod supervisor;
mod terminal;

fn main() -> ExitCode {
    // One executable contains every role, so that nothing else needs to be built or located.
    let mut args = std::env::args_os();
    let _program = args.next();
    let subcommand = args.next();
    match subcommand.as_deref().and_then(|name| name.to_str()) {
        Some(name @ (process::SERVICE_A | process::SERVICE_B)) => {
            let name = name.to_owned();
            observability::run(process::run_service(name, args))
        }
        Some("jaeger") => observability::run(jaeger::run_standalone(args)),
        Some("load") => observability::run(load::run(args)),
        _ => observability::run(run_lab()),
    }
}

async fn run_lab() -> Result<(), Error> {
    supervisor::run(args::Args::parse(std::env::args_os())?).await
}
