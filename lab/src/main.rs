//! Runs the whole system on one machine, without Docker: service A and service B as child processes
//! and a Jaeger in memory.
//!
//! | module | content |
//! |---|---|
//! | [`supervisor`] | startup, reaction to keys and signals, shutdown in reverse order |
//! | [`process`] | a service as a child process |
//! | [`jaeger`] | destination of the traces |
//! | [`notable_traces`] | traces of the slowest and the failed requests |
//! | [`port_check`] | check that the addresses are free |
//! | [`terminal`] | output |
//! | [`keyboard`] | single keys from the terminal |
//! | [`log_line`] | fields of the services' log lines |
//! | [`http`] | HTTP client and base URLs |
//! | [`args`] | command line |
//! | [`fault_switch`] | fault injection of service A |
//! | [`load`] | the subcommand `load` |
//! | [`scenarios`] | the subcommand `scenarios` |

use std::process::ExitCode;

mod args;
mod fault_switch;
mod http;
mod jaeger;
mod keyboard;
mod load;
mod log_line;
mod notable_traces;
mod port_check;
mod process;
mod scenarios;
mod supervisor;
mod terminal;

fn main() -> ExitCode {
    // One executable contains every role, so that nothing else needs to be built or located.
    let mut args = std::env::args_os();
    let _program = args.next();
    match args.next().as_ref().and_then(|name| name.to_str()) {
        Some(name @ (process::SERVICE_A | process::SERVICE_B)) => {
            observability::run(process::run_service(name, args))
        }
        Some("jaeger") => observability::run(jaeger::run_standalone(args)),
        Some("load") => observability::run(load::run(args)),
        Some("scenarios") => observability::run(scenarios::run(args)),
        _ => observability::run(supervisor::run(std::env::args_os())),
    }
}
