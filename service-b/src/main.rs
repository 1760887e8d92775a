//! Service B as a process of its own.

fn main() -> std::process::ExitCode {
    service_b::main(std::env::args_os())
}
