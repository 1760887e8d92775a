//! Processes that are measured: started, asked, read from `/proc`, ended.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use crate::Result;

/// How long a process may take to say where it listens, and to end when told to.
const PATIENCE: Duration = Duration::from_secs(60);

/// The kernel's unit in `/proc/PID/stat`; it is 100 on every Linux that Rust runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// A child that listens. What it writes is read to the end through a pipe, as a log shipper would;
/// it is ended when this is dropped.
pub(crate) struct Process {
    child: Child,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// From its start to the line that says where it listens.
    pub(crate) start_time: Duration,
}

impl Process {
    /// Starts this very program with other words.
    pub(crate) fn this(words: &[&str], variables: &[(&str, String)]) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(words);
        Self::start(command, variables)
    }

    /// Starts `command` with `variables` and no others that could change what is measured.
    pub(crate) fn start(mut command: Command, variables: &[(&str, String)]) -> Result<Self> {
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("OTEL_") || name == "RUST_LOG" {
                command.env_remove(name);
            }
        }
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        let started = Instant::now();
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().ok_or("no stdout")?;
        let mut stdout = BufReader::with_capacity(256 * 1024, stdout);
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        let start_time = started.elapsed();
        let address = line.split_whitespace().find_map(|word| word.strip_prefix("address="));
        let Some(address) = address.and_then(|address| address.parse().ok()) else {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("{command:?} does not say where it listens: {line}").into());
        };
        thread::spawn(move || io::copy(&mut stdout, &mut io::sink()));
        Ok(Self { child, address, start_time })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// `http://` and the address.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The body of a `GET`.
    pub(crate) fn get(&self, path: &str) -> Result<String> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        match answer.split_once("\r\n\r\n") {
            Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => Ok(body.to_owned()),
            _ => Err(format!("GET {path}: {}", answer.lines().next().unwrap_or_default()).into()),
        }
    }

    /// Seconds of CPU so far, user and system, all threads.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields = stat.rsplit_once(") ").ok_or("no process name")?.1;
        let mut ticks = fields.split(' ').skip(11).take(2).map(str::parse::<f64>);
        match (ticks.next(), ticks.next()) {
            (Some(Ok(user)), Some(Ok(system))) => Ok((user + system) / TICKS_PER_SECOND),
            _ => Err("no CPU times".into()),
        }
    }

    /// Resident memory now, in MiB.
    pub(crate) fn resident_mib(&self) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib: f64 = kib.ok_or("no VmRSS")?.trim().trim_end_matches(" kB").parse()?;
        Ok(kib / 1024.0)
    }

    /// Asks it to stop and waits until it has.
    pub(crate) fn stop(mut self) -> Result<()> {
        let pid = self.child.id().to_string();
        Command::new("kill").args(["-TERM", &pid]).status()?;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                return if status.success() { Ok(()) } else { Err(format!("{status}").into()) };
            }
            thread::sleep(Duration::from_millis(10));
        }
        Err("it does not stop".into())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
