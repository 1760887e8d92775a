//! A service as a child process, started from this executable.
//!
//! The lab holds the write end of the child's stdin. The child shuts down when that pipe closes,
//! whether the lab closed it or died. This needs no signal, works on every platform and leaves no
//! process behind.

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::process::{ExitStatus, Stdio};

use observability::Error;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::{mpsc, oneshot};

/// Subcommand that runs service A.
pub(crate) const SERVICE_A: &str = "service-a";
/// Subcommand that runs service B.
pub(crate) const SERVICE_B: &str = "service-b";

/// Variable that the lab sets for its children. A service that a user starts through the subcommand
/// ignores its stdin.
const STOP_ON_STDIN_EOF: &str = "LAB_STOP_ON_STDIN_EOF";

/// Maximum length of a forwarded line in bytes. Longer lines are split.
const MAX_LINE_BYTES: u64 = 1024 * 1024;

/// Runs service A or B in this process.
pub(crate) async fn run_service(
    name: String,
    args: impl Iterator<Item = OsString>,
) -> Result<(), Error> {
    let stop_on_eof = std::env::var_os(STOP_ON_STDIN_EOF).is_some();
    let shutdown = async move {
        if stop_on_eof {
            stdin_eof().await;
        } else {
            std::future::pending::<()>().await;
        }
    };
    let args = std::iter::once(OsString::from(&name)).chain(args);
    if name == SERVICE_A {
        service_a::run(service_a::SERVICE.parse(args)?, shutdown).await
    } else {
        service_b::run(service_b::SERVICE.parse(args)?, shutdown).await
    }
}

async fn stdin_eof() {
    // tokio's stdin would delay the exit of the runtime until the read returns. This thread ends with
    // the process.
    let (sender, eof) = oneshot::channel();
    std::thread::spawn(move || {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        let _ = sender.send(());
    });
    let _ = eof.await;
}

/// Output or exit of a service.
#[derive(Debug)]
pub(crate) enum Event {
    /// A line on stdout.
    Stdout(String),
    /// A line on stderr.
    Stderr(String),
    /// The exit of the process, after all its output.
    Exited(io::Result<ExitStatus>),
}

/// Parameters of a service, the same for each start.
#[derive(Debug)]
pub(crate) struct ServiceSpec {
    /// Subcommand.
    pub(crate) name: &'static str,
    /// Prefix of its lines on the terminal.
    pub(crate) label: char,
    /// Address to listen on.
    pub(crate) address: SocketAddr,
    /// Additional environment variables.
    pub(crate) env: Vec<(&'static str, OsString)>,
}

/// A running service. Dropping it kills the process.
#[derive(Debug)]
pub(crate) struct ServiceProcess {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: mpsc::Receiver<Event>,
}

impl ServiceProcess {
    pub(crate) fn spawn(spec: &ServiceSpec) -> Result<Self, Error> {
        let failure = |error| Error::other(format!("lab: cannot start {}: {error}", spec.name));
        let mut command = Command::new(std::env::current_exe().map_err(failure)?);
        command
            .arg(spec.name)
            .args(["--listen-addr", &spec.address.to_string()])
            .env_remove("ADMIN_ADDR")
            .env(STOP_ON_STDIN_EOF, "1")
            .envs(spec.env.iter().map(|(name, value)| (name, value)))
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
        Ok(Self { stdin: child.stdin.take(), child, lines })
    }

    /// Process id, until the exit was reported.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits for the next event. [`Event::Exited`] is the last one. Cancel safe.
    pub(crate) async fn next_event(&mut self) -> Event {
        match self.lines.recv().await {
            Some(line) => line,
            None => Event::Exited(self.child.wait().await),
        }
    }

    /// Begins the shutdown of the service.
    pub(crate) fn close_stdin(&mut self) {
        self.stdin = None;
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
    let mut source = BufReader::new(source);
    let mut line = Vec::new();
    while let Ok(1..) = (&mut source).take(MAX_LINE_BYTES).read_until(b'\n', &mut line).await {
        let text = String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']).to_owned();
        if events.send(event(text)).await.is_err() {
            return;
        }
        line.clear();
    }
}
