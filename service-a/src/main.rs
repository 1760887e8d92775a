//! Service A as a process of its own.

fn main() -> std::process::ExitCode {
    service_a::main(std::env::args_os())
}
