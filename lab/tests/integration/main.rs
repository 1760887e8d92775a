//! The whole system: two real services and what is between them, and the command that runs both.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use testkit::{ProcessBuilder, TEST_TIMEOUT};

mod command;
mod system;

/// The lab's binary, which is both services as well.
fn lab() -> ProcessBuilder {
    ProcessBuilder::new(env!("CARGO_BIN_EXE_lab"))
}

/// Waits until nobody listens there any more.
fn wait_until_refused(address: SocketAddr) {
    let deadline = Instant::now() + TEST_TIMEOUT;
    while TcpStream::connect(address).is_ok() {
        assert!(Instant::now() < deadline, "somebody still listens on {address}");
    }
}

/// Waits until a process is no more, or waits only for its parent to hear of its end.
#[cfg(target_os = "linux")]
fn wait_until_gone(pid: &str) {
    let deadline = Instant::now() + TEST_TIMEOUT;
    let state = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (_, state) = stat.rsplit_once(") ")?;
        state.chars().next()
    };
    while let Some(state) = state().filter(|state| !matches!(state, 'Z' | 'X')) {
        assert!(Instant::now() < deadline, "process {pid} is still there, in state {state}");
    }
}

/// Waits until whoever listened there as this process is no more.
fn wait_until_ended(address: SocketAddr, pid: &str) {
    wait_until_refused(address);
    #[cfg(target_os = "linux")]
    wait_until_gone(pid);
    println!("process {pid} is gone");
}
