//! Child processes: starting, reading output, sending signals, stopping.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

#[cfg(unix)]
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, waitid};
use shared_child::SharedChild;
#[cfg(unix)]
use shared_child::unix::SharedChildExt;

use crate::event_log::EventLog;
use crate::logfmt::LogLine;
use crate::wait::TEST_TIMEOUT;
use crate::{http, prometheus};

/// Environment variables that child processes inherit. A test sets all others explicitly, so that the
/// `OTEL_*` and `RUST_LOG` variables of a shell cannot change its result.
const INHERITED: [&str; 7] =
    ["PATH", "SYSTEMROOT", "TMPDIR", "TEMP", "LD_LIBRARY_PATH", "LD_PRELOAD", "LLVM_PROFILE_FILE"];

/// Handling of a process's stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stdout {
    /// Every line is kept.
    Read,
    /// Every line is read, but only the first is kept.
    DiscardAfterFirstLine,
    /// The pipe is neither read nor closed after the first line.
    BlockAfterFirstLine,
    /// The pipe is closed after the first line.
    CloseAfterFirstLine,
}

/// Builder of a [`Process`].
#[derive(Debug)]
pub struct ProcessBuilder {
    command: Command,
    stdout: Stdout,
}

impl ProcessBuilder {
    /// Creates a builder for the executable at `path`. `LISTEN_ADDR` selects a free port, and no other
    /// setting is inherited.
    pub fn new(path: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(path);
        command.env_clear();
        command.envs(INHERITED.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        command.env("LISTEN_ADDR", "127.0.0.1:0");
        Self { command, stdout: Stdout::Read }
    }

    /// Creates a builder for an example of the package under test.
    ///
    /// # Panics
    /// If the example has not been built.
    pub fn example(name: &str) -> Self {
        let test = std::env::current_exe().expect("path of the test binary");
        let path = test.ancestors().nth(2).expect("a target directory").join("examples").join(name);
        assert!(path.exists(), "{path:?} is missing; run `cargo build --examples`");
        Self::new(path)
    }

    /// Adds a command-line argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds several command-line arguments.
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, variable: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(variable, value);
        self
    }

    /// Sets several environment variables.
    pub fn envs(
        mut self,
        variables: impl IntoIterator<Item = (&'static str, impl AsRef<OsStr>)>,
    ) -> Self {
        self.command.envs(variables);
        self
    }

    /// Unsets an environment variable.
    pub fn env_remove(mut self, variable: &str) -> Self {
        self.command.env_remove(variable);
        self
    }

    /// Sets the handling of stdout. The default is [`Stdout::Read`].
    pub fn stdout(mut self, stdout: Stdout) -> Self {
        self.stdout = stdout;
        self
    }

    /// Starts the process.
    ///
    /// # Panics
    /// If the executable cannot be started.
    pub fn start(mut self) -> Process {
        self.command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = SharedChild::spawn(&mut self.command)
            .unwrap_or_else(|error| panic!("cannot start {:?}: {error}", self.command));
        let child = Arc::new(child);
        let (stdout, stderr) = (EventLog::default(), EventLog::default());
        read_lines(child.take_stdout().unwrap(), &stdout, self.stdout, &child);
        read_lines(child.take_stderr().unwrap(), &stderr, Stdout::Read, &child);
        Process { child, stdout, stderr }
    }

    /// Starts the process and waits until it logs its address.
    pub fn serve(self) -> Process {
        let process = self.start();
        process.address();
        process
    }

    /// Starts the process and waits until it exits.
    pub fn run_to_exit(self) -> ProcessOutput {
        self.start().wait()
    }
}

/// Reads lines into `lines` on a new thread.
fn read_lines(
    pipe: impl Read + Send + 'static,
    lines: &EventLog<String>,
    stdout: Stdout,
    child: &Arc<SharedChild>,
) {
    let (lines, child) = (lines.clone(), Arc::clone(child));
    // A larger buffer would take more than the first line out of a pipe that must fill up.
    let capacity = if stdout == Stdout::BlockAfterFirstLine { 1 } else { 8192 };
    thread::spawn(move || {
        let mut pipe = BufReader::with_capacity(capacity, pipe);
        while let Some(Ok(line)) = pipe.by_ref().split(b'\n').next() {
            lines.push(String::from_utf8_lossy(&line).into_owned());
            match stdout {
                Stdout::Read => continue,
                Stdout::DiscardAfterFirstLine => drop(io::copy(&mut pipe, &mut io::sink())),
                Stdout::BlockAfterFirstLine => drop(child.wait()),
                Stdout::CloseAfterFirstLine => {}
            }
            break;
        }
        lines.close();
    });
}

/// Exit code and output of a process that has exited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessOutput {
    /// Exit code; `None` if a signal terminated the process.
    pub code: Option<i32>,
    /// Lines on stdout.
    pub stdout: Vec<String>,
    /// Lines on stderr.
    pub stderr: Vec<String>,
}

/// Handle to a running process. Dropping it kills the process.
#[derive(Debug)]
pub struct Process {
    child: Arc<SharedChild>,
    stdout: EventLog<String>,
    stderr: EventLog<String>,
}

impl Process {
    /// Returns the listening address from the log.
    pub fn address(&self) -> SocketAddr {
        self.wait_for_message("listening")["address"].parse().unwrap()
    }

    /// Returns the address of the admin listener from the log, if there is a separate one.
    pub fn admin_address(&self) -> SocketAddr {
        self.wait_for_message("listening")["admin_address"].parse().unwrap()
    }

    /// Returns the base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Returns the process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns the resident memory in KiB.
    ///
    /// # Panics
    /// If the process has exited or the system has no `/proc`.
    pub fn resident_kib(&self) -> i64 {
        self.status_kib("VmRSS:")
    }

    /// Returns the maximum of the resident memory since the start of the process in KiB.
    ///
    /// # Panics
    /// If the process has exited or the system has no `/proc`.
    pub fn peak_resident_kib(&self) -> i64 {
        self.status_kib("VmHWM:")
    }

    fn status_kib(&self, field: &str) -> i64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let value = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        value.trim().strip_suffix(" kB").unwrap().parse().unwrap()
    }

    /// Returns the lines on stdout so far.
    pub fn stdout(&self) -> Vec<String> {
        self.stdout.events()
    }

    /// Returns the lines on stderr so far.
    pub fn stderr(&self) -> Vec<String> {
        self.stderr.events()
    }

    /// Returns the log so far.
    ///
    /// # Panics
    /// If a line on stdout is not a valid log line.
    pub fn log(&self) -> Vec<LogLine> {
        self.stdout().iter().map(|line| LogLine::parse(line)).collect()
    }

    /// Waits for a line on stdout, which need not be a log line.
    pub fn wait_for_stdout_line(
        &self,
        description: &str,
        mut matches: impl FnMut(&str) -> bool,
    ) -> String {
        let find = |lines: &[String]| lines.iter().find(|line| matches(line)).cloned();
        self.stdout.wait_for(description, find)
    }

    /// Waits for a log line.
    pub fn wait_for_log_line(
        &self,
        description: &str,
        mut matches: impl FnMut(&LogLine) -> bool,
    ) -> LogLine {
        self.stdout.wait_for(description, |lines| {
            lines.iter().map(|line| LogLine::parse(line)).find(|line| matches(line))
        })
    }

    /// Waits for a log line with this `msg`.
    pub fn wait_for_message(&self, msg: &str) -> LogLine {
        self.wait_for_log_line(&format!("log message {msg:?}"), |line| line.get("msg") == Some(msg))
    }

    /// Waits for the access log line of the request with this trace id. The line is written when the
    /// request is complete, so that its span and its metrics have been recorded as well.
    pub fn wait_for_access_line(&self, trace_id: &str) -> LogLine {
        self.wait_for_log_line(&format!("access log line of trace {trace_id}"), |line| {
            line.get("endpoint").is_some() && line.get("trace_id") == Some(trace_id)
        })
    }

    /// Sends a `GET` request.
    pub fn get(&self, target: &str) -> http::Response {
        http::get(self.address(), target)
    }

    /// Scrapes `/metrics`.
    pub fn metrics(&self) -> prometheus::Page {
        prometheus::Page::parse(self.get("/metrics").text())
    }

    /// Scrapes `/metrics` until `condition` holds for a page and returns that page.
    pub fn wait_for_metrics(
        &self,
        description: &str,
        condition: impl Fn(&prometheus::Page) -> bool,
    ) -> prometheus::Page {
        let deadline = Instant::now() + TEST_TIMEOUT;
        loop {
            let page = self.metrics();
            if condition(&page) {
                return page;
            }
            assert!(Instant::now() < deadline, "timed out waiting for {description}: {page:#?}");
        }
    }

    /// Sets the faults of service A.
    ///
    /// # Panics
    /// If the process rejects `faults`.
    pub fn set_faults(&self, faults: &str) {
        let response = http::Request::new("PUT", "/faults").body(faults).send(self.address());
        assert_eq!(response.status, 200, "{response:?}");
    }

    /// Kills the process.
    pub fn kill(&self) {
        self.child.kill().expect("kill a process");
    }

    /// Waits until the process has closed its output and exited.
    pub fn wait(&self) -> ProcessOutput {
        let (stdout, stderr) = (self.stdout.wait_until_closed(), self.stderr.wait_until_closed());
        let status = self.child.wait().expect("wait for a process");
        ProcessOutput { code: status.code(), stdout, stderr }
    }
}

#[cfg(unix)]
impl Process {
    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends SIGINT.
    pub fn interrupt(&self) {
        self.signal(Signal::INT);
    }

    /// Sends SIGHUP.
    pub fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    /// Sends SIGSTOP and waits until the process is stopped. Its sockets stay open.
    pub fn suspend(&self) {
        self.signal(Signal::STOP);
        let pid = i32::try_from(self.id()).ok().and_then(Pid::from_raw).unwrap();
        waitid(WaitId::Pid(pid), WaitIdOptions::STOPPED).expect("wait for a stopped process");
    }

    /// Sends SIGCONT.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        self.child.send_signal(signal.as_raw()).expect("send a signal");
    }

    /// Sends SIGTERM and waits until the process exits.
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
            eprintln!("output of process {}:", self.id());
            for line in self.stdout().iter().chain(&self.stderr()) {
                eprintln!("  {line}");
            }
        }
    }
}
