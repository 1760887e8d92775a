//! Entry point of service B.

fn main() -> std::process::ExitCode {
    service_b::main(std::env::args_os())
}
