//! What the tests share: real processes, real sockets, an OTLP receiver.
//!
//! | to | use |
//! |---|---|
//! | run a service as the process that people run | [`Launch`], [`Process`] |
//! | ask it something, also in ways no client would | [`http`] |
//! | stand in for a service that misbehaves | [`FakeServer`] |
//! | receive its spans | [`otlp::Receiver`] |
//! | read its log | [`LogLine`] |
//! | read its metrics | [`prometheus::Page`] |
//! | take every way out of the network from it | `network::with_no_way_out` (Linux) |
//!
//! Nothing here sleeps to let something happen: what has to happen is waited for on a [`Board`], and
//! a wait that takes longer than [`PATIENCE`] fails the test with all that did happen. Ports are the
//! system's choice, addresses are loopback, and what a test starts ends with it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

use std::time::Duration;

mod board;
mod fake_server;
pub mod http;
mod logfmt;
#[cfg(target_os = "linux")]
pub mod network;
pub mod otlp;
mod process;
pub mod prometheus;
#[cfg(feature = "tls")]
mod tls;

pub use board::Board;
#[cfg(target_os = "linux")]
pub use fake_server::full_listener;
pub use fake_server::{FakeServer, Received, Reply, ReservedPort};
pub use logfmt::LogLine;
pub use process::{Exit, Launch, Process, Stdout};
#[cfg(feature = "tls")]
pub use tls::TlsFront;

/// How long anything is waited for before the test fails. Long, since only a failing test waits that
/// long, and a loaded machine is no failure.
pub const PATIENCE: Duration = Duration::from_secs(30);
