//! What the telemetry costs, measured beside bare twins of the two services.
//!
//! `cargo run --release -p bench` compares them under load; `-- check` holds instructions and
//! allocations per request against the committed budget; `-- help` lists the rest.

use std::process::ExitCode;

mod bare;
mod compare;
mod count;
mod growth;
mod load;
mod process;
mod receiver;
mod services;
mod spans;
mod turns;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const HELP: &str = "\
cargo run --release -p bench -- [COMMAND] [OPTIONS]

Commands:
  compare   CPU, throughput, latency and memory of ours beside bare, in turns (the default; wrk)
  count [NAME..]  instructions and allocations per request, and with parts switched off (valgrind)
  check     instructions and allocations per request against bench/budget.txt (valgrind)
  growth    by connections, routes and 10 million requests: CPU, memory, /metrics; start and idle (wrk)

Options:
  --rounds N        3 unless told otherwise
  --seconds N       of load for each variant in a round, in turns of one; 10 unless told otherwise
  --connections N   32 unless told otherwise
  --receiver URL    an OTLP/gRPC receiver to use in place of the lab's Jaeger
";

/// What the words say.
pub(crate) struct Options {
    rounds: u32,
    seconds: u32,
    connections: usize,
    receiver: Option<String>,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let result = match words[..] {
        ["service-a"] => return service_a::main(["service-a".into()]),
        ["service-b"] => return service_b::main(["service-b".into()]),
        ["bare-a"] => bare::serve(bare::a()),
        ["bare-b", url] => bare::b(url).and_then(bare::serve),
        ["receiver"] => receiver::serve(),
        ["routes", count] => growth::serve_routes(count),
        ["bare-routes", count] => growth::bare_routes(count).and_then(bare::serve),
        ["help" | "--help" | "-h", ..] => {
            print!("{HELP}");
            Ok(())
        }
        [command, ref rest @ ..] if !command.starts_with('-') => run(command, rest),
        ref options => run("compare", options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &str, words: &[&str]) -> Result<()> {
    if command == "count" {
        return count::print(words);
    }
    if command == "check" {
        return count::check();
    }
    let options = options(words)?;
    if cfg!(debug_assertions) {
        eprintln!("bench: this is a debug build; figures that mean something need --release");
    }
    match command {
        "compare" => compare::run(&options),
        "growth" => growth::run(&options),
        _ => Err(format!("no such command: {command}\n\n{HELP}").into()),
    }
}

fn options(words: &[&str]) -> Result<Options> {
    let mut options = Options { rounds: 3, seconds: 10, connections: 32, receiver: None };
    let mut words = words.iter();
    while let Some(option) = words.next() {
        let value = words.next().ok_or_else(|| format!("{option}: a value is missing"))?;
        match *option {
            "--rounds" => options.rounds = value.parse()?,
            "--seconds" => options.seconds = value.parse()?,
            "--connections" => options.connections = value.parse()?,
            "--receiver" => options.receiver = Some((*value).to_owned()),
            _ => return Err(format!("no such option: {option}\n\n{HELP}").into()),
        }
    }
    Ok(options)
}
