//! Entry point of service A.

fn main() -> std::process::ExitCode {
    service_a::main(std::env::args_os())
}
