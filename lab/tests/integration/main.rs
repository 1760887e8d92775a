//! Integration tests of the lab command and of both services together.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed assumption fails the test"
)]

use std::net::SocketAddr;

use testkit::{ProcessBuilder, wait_until_refused};

mod command;
mod system;

/// Returns a builder for the lab binary, which contains both services.
fn lab() -> ProcessBuilder {
    ProcessBuilder::new(env!("CARGO_BIN_EXE_lab"))
}

/// Waits until the process has exited and its listener is closed.
fn wait_until_exited(address: SocketAddr, pid: &str) {
    wait_until_refused(address);
    #[cfg(target_os = "linux")]
    testkit::wait_until(&format!("exit of process {pid}"), || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = stat.rsplit_once(") ").and_then(|(_, fields)| fields.chars().next());
        // `Z` and `X` are processes that have exited and whose parent has not been notified yet.
        matches!(state, None | Some('Z' | 'X'))
    });
    println!("process {pid} has exited");
}
