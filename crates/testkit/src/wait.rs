//! Waiting for conditions that raise no event.

use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// Maximum time that a test waits for anything. Generous, because only a failing test waits that long
/// and a loaded machine must not fail one.
pub const TEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Polls `condition` until it holds.
///
/// # Panics
/// If `condition` does not hold within [`TEST_TIMEOUT`]. The message contains `description`.
pub fn wait_until(description: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + TEST_TIMEOUT;
    while !condition() {
        assert!(Instant::now() < deadline, "timed out waiting for {description}");
        thread::yield_now();
    }
}

/// Waits until connections to `address` are refused.
///
/// # Panics
/// If connections are still accepted after [`TEST_TIMEOUT`].
pub fn wait_until_refused(address: SocketAddr) {
    wait_until(&format!("connections to {address} to be refused"), || {
        TcpStream::connect_timeout(&address, TEST_TIMEOUT)
            .is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
    });
}
