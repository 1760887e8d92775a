//! The whole system: two real services and what is between them, and the command that runs both.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use testkit::{Launch, PATIENCE};

mod command;
mod system;

/// The lab's binary, which is both services as well.
fn lab() -> Launch {
    Launch::new(env!("CARGO_BIN_EXE_lab"))
}

/// Waits until nobody listens there any more, and so the process that did is gone.
fn wait_until_refused(address: SocketAddr) {
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(address).is_ok() {
        assert!(Instant::now() < deadline, "somebody still listens on {address}");
    }
}
