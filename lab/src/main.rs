//! The whole system on one machine, without Docker: service A and service B as processes of their
//! own, a Jaeger in memory, both logs on one screen, and a key to stop A with.
//!
//! | question | where |
//! |---|---|
//! | which ports and settings are there? | [`settings`] |
//! | what is started, watched and stopped, in which order? | [`system`] |
//! | how is one service run as a process? | [`child`] |
//! | where do the traces go? | [`jaeger`] |
//! | which traces are worth a look? | [`highlights`] |
//! | what is shown? | [`screen`] |
//! | how does a key reach us? | [`keys`] |
//! | what does `lab load` do? | [`load`] |

use std::process::ExitCode;

use observability::Error;

mod child;
mod highlights;
mod jaeger;
mod keys;
mod load;
mod screen;
mod settings;
mod system;

fn main() -> ExitCode {
    // The same binary is all of it, so that nothing else needs to be built or found.
    let mut args = std::env::args_os();
    let _program = args.next();
    let subcommand = args.next();
    match subcommand.as_deref().and_then(|word| word.to_str()) {
        Some(name @ (child::SERVICE_A | child::SERVICE_B)) => {
            let name = name.to_owned();
            observability::run(child::main(name, args))
        }
        Some("jaeger") => observability::run(jaeger::alone(args)),
        Some("load") => observability::run(load::run(args)),
        _ => observability::run(lab()),
    }
}

async fn lab() -> Result<(), Error> {
    let settings = settings::Settings::from_args(std::env::args_os())?;
    system::run(settings).await
}
