//! A service as a child process, started from this executable.
//!
//! The lab holds the write end of the child's stdin. The child shuts down when that pipe closes,
//! whether the lab closed it or died. This needs no signal, works on every platform and leaves no
//! process behind.

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use observability::Error;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::log_line::listening_address;

/// Subcommand that runs service A.
pub(crate) const SERVICE_A: &str = "service-a";
/// Subcommand that runs service B.
pub(crate) const SERVICE_B: &str = "service-b";

/// Maximum time until a service listens. Generous, because the machine may be compiling.
const STARTUP_TIMEOUT: Duration = Duration::from_secs(30);

/// Variable that the lab sets for its children. A service that a user starts through the subcommand
/// ignores its stdin.
const STOP_ON_STDIN_EOF: &str = "LAB_STOP_ON_STDIN_EOF";

/// Runs service A or B in this process.
pub(crate) async fn run_service(
    name: &str,
    args: impl Iterator<Item = OsString>,
) -> Result<(), Error> {
    let args = std::iter::once(name.into()).chain(args);
    if name == SERVICE_A {
        service_a::run(service_a::SERVICE.parse(args)?, stdin_eof()).await
    } else {
        service_b::run(service_b::SERVICE.parse(args)?, stdin_eof()).await
    }
}

/// Completes when the lab closes stdin. The read does not delay an exit for another reason, because
/// [`observability::run`] does not wait for blocking tasks.
async fn stdin_eof() {
    if std::env::var_os(STOP_ON_STDIN_EOF).is_none() {
        return std::future::pending().await;
    }
    let _ = spawn_blocking(|| io::copy(&mut io::stdin(), &mut io::sink())).await;
}

/// Variable with the hosts that requests may name.
const ALLOWED_HOSTS: &str = "ALLOWED_HOSTS";

/// Output or exit of a service.
#[derive(Debug)]
pub(crate) enum Event {
    /// A line on stdout.
    Stdout(String),
    /// A line on stderr.
    Stderr(String),
    /// The exit of the process with this status, after all its output.
    Exited(String),
}

/// A running service. Dropping it kills the process.
#[derive(Debug)]
pub(crate) struct ServiceProcess {
    name: &'static str,
    child: Child,
    lines: mpsc::Receiver<Event>,
}

impl ServiceProcess {
    /// Starts the subcommand `name`, which listens on `address`. `set_env` sets its environment.
    pub(crate) fn spawn(
        name: &'static str,
        address: SocketAddr,
        set_env: impl FnOnce(&mut Command) -> &mut Command,
    ) -> Result<Self, Error> {
        let failure = |error| Error::other(format!("lab: cannot start {name}: {error}"));
        let mut command = Command::new(std::env::current_exe().map_err(failure)?);
        // A service that listens on another address than loopback serves clients that know it by any name.
        if address.ip().is_loopback()
            && std::env::var_os(ALLOWED_HOSTS).is_none_or(|hosts| hosts.is_empty())
        {
            command.env(ALLOWED_HOSTS, "localhost");
        }
        set_env(&mut command)
            .arg(name)
            .args(["--listen-addr", &address.to_string()])
            .env_remove("ADMIN_ADDR")
            .env(STOP_ON_STDIN_EOF, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        // The terminal sends Ctrl-C and Ctrl-Z to the lab alone, which stops its children in order.
        #[cfg(unix)]
        command.process_group(0);
        let mut child = command.spawn().map_err(failure)?;
        let (sender, lines) = mpsc::channel(1024);
        if let Some(stdout) = child.stdout.take() {
            tokio::spawn(forward_lines(stdout, sender.clone(), Event::Stdout));
        }
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(forward_lines(stderr, sender, Event::Stderr));
        }
        Ok(Self { name, child, lines })
    }

    /// Waits until the service listens, passes its lines on stdout to `on_line` and returns its address.
    pub(crate) async fn wait_until_listening(
        &mut self,
        on_line: impl Fn(&str),
    ) -> Result<SocketAddr, Error> {
        let listening = async {
            let mut errors = Vec::new();
            loop {
                match self.next_event().await {
                    Event::Stdout(line) => {
                        on_line(&line);
                        if let Some(address) = listening_address(&line) {
                            return Ok(address);
                        }
                    }
                    Event::Stderr(line) => errors.push(line),
                    Event::Exited(_) => return Err(errors.join("\n")),
                }
            }
        };
        let result = timeout(STARTUP_TIMEOUT, listening).await;
        let address = result.unwrap_or_else(|_| Err(format!("timeout of {STARTUP_TIMEOUT:?}")));
        address.map_err(|error| Error::other(format!("lab: {} did not start: {error}", self.name)))
    }

    /// Process id, or 0 after the exit was reported.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// Waits for the next event. [`Event::Exited`] is the last one. Cancel safe.
    pub(crate) async fn next_event(&mut self) -> Event {
        if let Some(line) = self.lines.recv().await {
            return line;
        }
        match self.child.wait().await {
            Ok(status) => Event::Exited(status.to_string()),
            Err(error) => Event::Exited(error.to_string()),
        }
    }

    /// Begins the shutdown of the service.
    pub(crate) fn close_stdin(&mut self) {
        self.child.stdin = None;
    }

    /// Returns `true` if the shutdown has begun.
    pub(crate) fn is_stopping(&self) -> bool {
        self.child.stdin.is_none()
    }

    pub(crate) fn kill(&mut self) {
        // Fails only if the process has exited already.
        let _ = self.child.start_kill();
    }
}

/// Forwards each line with invalid UTF-8 replaced.
async fn forward_lines(
    source: impl AsyncRead + Send + Unpin + 'static,
    events: mpsc::Sender<Event>,
    event: fn(String) -> Event,
) {
    let mut lines = BufReader::new(source).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        let line = String::from_utf8_lossy(&line).into_owned();
        if events.send(event(line)).await.is_err() {
            return;
        }
    }
}
