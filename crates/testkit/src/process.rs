//! A program as the process that people run: started, read, signalled, and ended with the test.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use shared_child::SharedChild;

use crate::{EventLog, LogLine, TEST_TIMEOUT, http, prometheus};

/// What a process needs from its surroundings to run at all. Everything else of the environment, such
/// as `OTEL_*` and `RUST_LOG`, is the test's to set.
const INHERITED: [&str; 6] =
    ["PATH", "SYSTEMROOT", "TMPDIR", "TEMP", "LD_LIBRARY_PATH", "LLVM_PROFILE_FILE"];

/// What becomes of a process's stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stdout {
    /// It is read to the end.
    Read,
    /// After the first line nobody reads it, but it stays open.
    StuckAfterFirstLine,
    /// After the first line the reading end is closed.
    ClosedAfterFirstLine,
}

/// A process about to be started.
#[derive(Debug)]
pub struct ProcessBuilder {
    command: Command,
    stdout: Stdout,
}

impl ProcessBuilder {
    /// The program at `path`, with an empty environment but for [`env`](Self::env), on a free port.
    pub fn new(path: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(path);
        command.env_clear();
        command.envs(INHERITED.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        command.env("LISTEN_ADDR", "127.0.0.1:0");
        Self { command, stdout: Stdout::Read }
    }

    /// An example of the package that is tested, as `cargo test` has built it.
    ///
    /// # Panics
    /// Where it is not there.
    pub fn example(name: &str) -> Self {
        let test = std::env::current_exe().expect("the path of this test's program");
        let directory = test.parent().and_then(|deps| deps.parent()).expect("a target directory");
        let path = directory.join("examples").join(name);
        assert!(path.exists(), "{path:?}: cargo build --examples");
        Self::new(path)
    }

    /// One more word on the command line.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Sets a variable.
    pub fn env(mut self, variable: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(variable, value);
        self
    }

    /// Sets several.
    pub fn envs<V: Into<OsString>>(
        mut self,
        variables: impl IntoIterator<Item = (&'static str, V)>,
    ) -> Self {
        let variables = variables.into_iter().map(|(variable, value)| (variable, value.into()));
        self.command.envs(variables);
        self
    }

    /// Takes a variable away again.
    pub fn unset(mut self, variable: &str) -> Self {
        self.command.env_remove(variable);
        self
    }

    /// What becomes of its stdout; it is read unless told otherwise.
    pub fn stdout(mut self, stdout: Stdout) -> Self {
        self.stdout = stdout;
        self
    }

    /// Starts it.
    pub fn start(mut self) -> Process {
        self.command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = Arc::new(SharedChild::spawn(&mut self.command).expect("start a process"));
        let (stdout, stderr) = (EventLog::default(), EventLog::default());
        let readers = [
            read(child.take_stdout().unwrap(), &stdout, self.stdout, &child),
            read(child.take_stderr().unwrap(), &stderr, Stdout::Read, &child),
        ];
        let ended = EventLog::default();
        let waiter = (Arc::clone(&child), ended.clone());
        thread::spawn(move || {
            let (child, ended) = waiter;
            let status = child.wait().expect("wait for a process");
            // Its end counts from when all that it said was read.
            for reader in readers {
                let _ = reader.join();
            }
            ended.push(status.code());
        });
        Process { child, stdout, stderr, ended }
    }

    /// Starts it and waits until it listens.
    pub fn serve(self) -> Process {
        let process = self.start();
        process.address();
        process
    }

    /// Starts it and waits until it ends by itself.
    pub fn run_to_exit(self) -> ProcessOutput {
        self.start().wait()
    }
}

/// Reads lines onto the board.
fn read(
    from: impl Read + Send + 'static,
    board: &EventLog<String>,
    stdout: Stdout,
    child: &Arc<SharedChild>,
) -> thread::JoinHandle<()> {
    let (board, child) = (board.clone(), Arc::clone(child));
    thread::spawn(move || {
        let mut from =
            BufReader::with_capacity(if stdout == Stdout::Read { 8192 } else { 1 }, from);
        loop {
            let mut line = Vec::new();
            match from.read_until(b'\n', &mut line) {
                Ok(1..) => {}
                Ok(0) | Err(_) => break,
            }
            let line = String::from_utf8_lossy(&line);
            board.push(line.strip_suffix('\n').unwrap_or(&line).to_owned());
            match stdout {
                Stdout::Read => {}
                Stdout::ClosedAfterFirstLine => break,
                Stdout::StuckAfterFirstLine => {
                    let _ = child.wait();
                    break;
                }
            }
        }
        board.close();
    })
}

/// How a process ended, and all that it said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessOutput {
    /// Its exit code; `None` where a signal ended it.
    pub code: Option<i32>,
    /// The lines on stdout.
    pub stdout: Vec<String>,
    /// The lines on stderr.
    pub stderr: Vec<String>,
}

/// A running process; it is ended when this is dropped.
#[derive(Debug)]
pub struct Process {
    child: Arc<SharedChild>,
    stdout: EventLog<String>,
    stderr: EventLog<String>,
    ended: EventLog<Option<i32>>,
}

impl Process {
    /// Where it listens, as its log says.
    pub fn address(&self) -> SocketAddr {
        self.listening()["address"].parse().unwrap()
    }

    /// Where its probes and metrics are, if not at [`address`](Self::address).
    pub fn admin_address(&self) -> SocketAddr {
        self.listening()["admin_address"].parse().unwrap()
    }

    fn listening(&self) -> LogLine {
        self.wait_for_line("the line that says where it listens", |line| {
            line.get("msg") == Some("listening")
        })
    }

    /// Its id, for what the system shows of it.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory, in KiB.
    ///
    /// # Panics
    /// Where it is gone, and where the system has no `/proc`.
    pub fn resident_kib(&self) -> i64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
    }

    /// The lines on stdout so far.
    pub fn stdout(&self) -> Vec<String> {
        self.stdout.items()
    }

    /// The lines on stderr so far.
    pub fn stderr(&self) -> Vec<String> {
        self.stderr.items()
    }

    /// The log so far; every line of it has to be a legal one.
    pub fn log(&self) -> Vec<LogLine> {
        self.stdout().iter().map(|line| LogLine::parse(line)).collect()
    }

    /// Waits for a line on stdout that is not a log line.
    pub fn wait_for_text(&self, what: &str, mut is_it: impl FnMut(&str) -> bool) -> String {
        self.stdout.wait_for(what, |lines| lines.iter().find(|line| is_it(line)).cloned())
    }

    /// Waits for a log line.
    pub fn wait_for_line(&self, what: &str, mut is_it: impl FnMut(&LogLine) -> bool) -> LogLine {
        self.stdout.wait_for(what, |lines| {
            lines.iter().map(|line| LogLine::parse(line)).find(|line| is_it(line))
        })
    }

    /// Waits for the line of a request, by the trace id of its answer. The line is written when the
    /// request is over, so its span and its sample are there too.
    pub fn wait_for_access(&self, trace_id: &str) -> LogLine {
        self.wait_for_line(&format!("the line of request {trace_id}"), |line| {
            line.get("endpoint").is_some() && line.get("trace_id") == Some(trace_id)
        })
    }

    /// Asks it something.
    pub fn get(&self, target: &str) -> http::Response {
        http::get(self.address(), target)
    }

    /// Its metrics now.
    pub fn metrics(&self) -> prometheus::Page {
        prometheus::Page::parse(self.get("/metrics").text())
    }

    /// Scrapes until the page is as wanted. For what leaves no other sign, such as that a request is
    /// being served.
    pub fn wait_for_metrics(
        &self,
        what: &str,
        is_so: impl Fn(&prometheus::Page) -> bool,
    ) -> prometheus::Page {
        let deadline = Instant::now() + TEST_TIMEOUT;
        loop {
            let page = self.metrics();
            if is_so(&page) {
                return page;
            }
            assert!(Instant::now() < deadline, "time was up without {what}: {page:#?}");
        }
    }

    /// SIGTERM.
    #[cfg(unix)]
    pub fn terminate(&self) {
        self.signal(rustix::process::Signal::TERM);
    }

    /// SIGINT.
    #[cfg(unix)]
    pub fn interrupt(&self) {
        self.signal(rustix::process::Signal::INT);
    }

    /// SIGSTOP: it stands still and its sockets stay open. Gone into effect when this returns.
    #[cfg(unix)]
    pub fn suspend(&self) {
        use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
        self.signal(rustix::process::Signal::STOP);
        let pid = i32::try_from(self.id()).ok().and_then(Pid::from_raw).unwrap();
        waitid(WaitId::Pid(pid), WaitIdOptions::STOPPED)
            .expect("wait for a process to stand still");
    }

    /// SIGCONT: it goes on.
    #[cfg(unix)]
    pub fn resume(&self) {
        self.signal(rustix::process::Signal::CONT);
    }

    #[cfg(unix)]
    fn signal(&self, signal: rustix::process::Signal) {
        use shared_child::unix::SharedChildExt;
        self.child.send_signal(signal.as_raw()).expect("send a signal");
    }

    /// Ends it as the system would, without a chance to say anything.
    pub fn kill(&self) {
        self.child.kill().expect("kill a process");
    }

    /// Waits for its end.
    pub fn wait(&self) -> ProcessOutput {
        let code = self.ended.wait_for("the end of the process", |ended| ended.first().copied());
        ProcessOutput { code, stdout: self.stdout(), stderr: self.stderr() }
    }

    /// Asks it to stop in order and waits for its end.
    #[cfg(unix)]
    pub fn stop(&self) -> ProcessOutput {
        self.terminate();
        self.wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let mut out = std::io::stderr();
            let _ = writeln!(out, "process {} said:", self.id());
            for line in self.stdout().iter().chain(&self.stderr()) {
                let _ = writeln!(out, "  {line}");
            }
        }
    }
}
