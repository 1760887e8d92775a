//! One service as a process of its own, made from this same binary.
//!
//! The child's stdin is a pipe that the lab holds open: when it closes, because the lab closed it or
//! because the lab is gone for whatever reason, the child stops in order. That needs no signal, so it
//! works the same everywhere and leaves no process behind.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use observability::Error;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::{Child as Process, ChildStdin, Command};
use tokio::sync::mpsc;

/// Subcommand that is service A.
pub(crate) const SERVICE_A: &str = "service-a";
/// Subcommand that is service B.
pub(crate) const SERVICE_B: &str = "service-b";

/// Set by the lab for its children, whose stdin then is the pipe described above. A service started
/// by hand through the subcommand has an ordinary stdin.
const HELD: &str = "LAB_HOLDS_STDIN";

/// Longest log line that is shown whole, in bytes.
const MAX_LINE: u64 = 1024 * 1024;

/// The child's side: the service's own `main`, and an end when stdin closes.
pub(crate) async fn main(name: String, args: impl Iterator<Item = OsString>) -> Result<(), Error> {
    let held = std::env::var_os(HELD).is_some();
    let stop = async move {
        if held {
            stdin_closed().await;
        } else {
            std::future::pending::<()>().await;
        }
    };
    let args = std::iter::once(OsString::from(&name)).chain(args);
    if name == SERVICE_A {
        service_a::run(service_a::SERVICE.parse(args)?, stop).await
    } else {
        service_b::run(service_b::SERVICE.parse(args)?, stop).await
    }
}

async fn stdin_closed() {
    // Stdin is read on a thread, since a pipe cannot be waited for in the same way everywhere; the
    // thread ends with the process.
    let (closed, wait) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        let _ = closed.send(());
    });
    let _ = wait.await;
}

/// What a child does, as the lab hears of it.
#[derive(Debug)]
pub(crate) enum Event {
    /// A line of its log.
    Line(String),
    /// A line it wrote to stderr.
    Complaint(String),
    /// It is no more.
    Ended(ExitStatus),
}

/// How a service is to be started; the same again after it was stopped.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) name: &'static str,
    /// How the screen marks it.
    pub(crate) mark: char,
    pub(crate) address: SocketAddr,
    pub(crate) env: Vec<(&'static str, OsString)>,
}

/// The lab's side: a running child.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) pid: u32,
    /// Dropping it tells the child to stop.
    hold: Option<ChildStdin>,
    kill: Option<tokio::sync::oneshot::Sender<()>>,
    events: mpsc::Receiver<Event>,
}

impl Child {
    pub(crate) fn start(plan: &Plan) -> Result<Self, Error> {
        let failed = |error| Error::other(format!("lab: cannot start {}: {error}", plan.name));
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        command
            .arg(plan.name)
            .args(["--listen-addr", &plan.address.to_string()])
            .env_remove("ADMIN_ADDR")
            .env(HELD, "1")
            .envs(plan.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        // Ctrl-C on the terminal is for the lab, which then stops its children in order.
        #[cfg(unix)]
        command.process_group(0);
        let mut process = command.spawn().map_err(failed)?;
        let pid = process.id().unwrap_or_default();
        let hold = process.stdin.take();
        let (send, events) = mpsc::channel(1024);
        let out = process.stdout.take().map(|out| forward(out, send.clone(), Event::Line));
        let err = process.stderr.take().map(|err| forward(err, send.clone(), Event::Complaint));
        let (kill, killed) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            let ended = wait(&mut process, killed).await;
            // All it said comes before its end.
            for reader in [out, err].into_iter().flatten() {
                let _ = reader.await;
            }
            if let Ok(status) = ended {
                let _ = send.send(Event::Ended(status)).await;
            }
        });
        Ok(Self { pid, hold, kill: Some(kill), events })
    }

    /// What it does next; `None` after its end.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// Asks it to stop in order.
    pub(crate) fn ask_to_stop(&mut self) {
        self.hold = None;
    }

    /// Ends it at once.
    pub(crate) fn kill(&mut self) {
        if let Some(kill) = self.kill.take() {
            let _ = kill.send(());
        }
    }

    /// Asks it to stop, and ends it where it does not within `limit`; shows what it says meanwhile.
    pub(crate) async fn stop(&mut self, limit: Duration, mut show: impl FnMut(Event)) {
        self.ask_to_stop();
        let mut drain = async || {
            while let Some(event) = self.events.recv().await {
                show(event);
            }
        };
        if tokio::time::timeout(limit, drain()).await.is_err() {
            if let Some(kill) = self.kill.take() {
                let _ = kill.send(());
            }
            drain().await;
        }
    }
}

async fn wait(
    process: &mut Process,
    killed: tokio::sync::oneshot::Receiver<()>,
) -> std::io::Result<ExitStatus> {
    tokio::select! {
        status = process.wait() => return status,
        killed = killed => if killed.is_err() {
            return process.wait().await;
        },
    }
    process.kill().await?;
    process.wait().await
}

/// Sends each line on, whatever bytes it is made of; an endless one in pieces.
fn forward(
    from: impl AsyncRead + Send + Unpin + 'static,
    to: mpsc::Sender<Event>,
    event: fn(String) -> Event,
) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        loop {
            line.clear();
            match (&mut from).take(MAX_LINE).read_until(b'\n', &mut line).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return,
            }
            let text = String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']).to_owned();
            if to.send(event(text)).await.is_err() {
                return;
            }
        }
    })
}
