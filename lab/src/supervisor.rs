//! Starts A and B, forwards their output until the user quits, and stops them in reverse order.

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::process::ExitStatus;
use std::time::Duration;

use observability::Error;
use observability::server::ShutdownSignals;
use tokio::time::timeout;

use crate::args::{Args, service_shutdown_timeout};
use crate::jaeger::TraceBackend;
use crate::keyboard::KeyReader;
use crate::notable_traces::NotableTraces;
use crate::process::{Event, SERVICE_A, SERVICE_B, ServiceProcess, ServiceSpec};
use crate::terminal::{Banner, Terminal};

/// Maximum time until a service listens. Generous, because the machine may be compiling.
const STARTUP_TIMEOUT: Duration = Duration::from_secs(30);

/// Time beyond its own shutdown timeout after which a service is killed.
const KILL_DELAY: Duration = Duration::from_secs(1);

/// Runs the system until a shutdown signal or the key `q`.
pub(crate) async fn run(args: Args) -> Result<(), Error> {
    let mut signals = ShutdownSignals::new()?;
    let mut keys = KeyReader::new();
    let terminal = Terminal::new(keys.is_available());
    let mut system = tokio::select! {
        system = System::start(args, terminal) => system?,
        _ = signals.recv() => return Ok(()),
        never = keys.ignore_all() => match never {},
    };
    system.print_banner();
    loop {
        tokio::select! {
            event = system.a.next_event() => system.a.on_event(event, &system.traces),
            event = system.b.next_event() => system.b.on_event(event, &system.traces),
            key = keys.next() => match key {
                'a' => system.a.toggle()?,
                'b' => system.b.toggle()?,
                't' => system.print_notable_traces().await,
                'q' => break,
                _ => {}
            },
            _ = signals.recv() => break,
        }
    }
    tokio::select! {
        () = system.stop() => Ok(()),
        _ = signals.recv() => Err(Error::other("lab: aborted by a second signal")),
        never = keys.ignore_all() => match never {},
    }
}

struct System {
    terminal: Terminal,
    a: SupervisedService,
    b: SupervisedService,
    traces: TraceBackend,
    shutdown_timeout: Duration,
}

impl System {
    async fn start(args: Args, terminal: Terminal) -> Result<Self, Error> {
        let shutdown_timeout = service_shutdown_timeout()?;
        let traces = TraceBackend::start(args.jaeger()).await?;
        let env = common_env(&traces);

        let mut a_env = env.clone();
        a_env.push(("FAULTS_ENABLED", "true".into()));
        let a =
            ServiceSpec { name: SERVICE_A, label: 'A', address: args.service_a_addr, env: a_env };
        let a = SupervisedService::start(a, terminal).await?;

        let mut b_env = env;
        b_env.push(("SERVICE_A_URL", format!("http://{}", a.spec.address).into()));
        let b =
            ServiceSpec { name: SERVICE_B, label: 'B', address: args.service_b_addr, env: b_env };
        let b = SupervisedService::start(b, terminal).await?;
        Ok(Self { terminal, a, b, traces, shutdown_timeout })
    }

    fn print_banner(&self) {
        self.terminal.print_banner(&Banner {
            a: self.a.spec.address,
            b: self.b.spec.address,
            a_pid: self.a.pid(),
            b_pid: self.b.pid(),
            traces: self.traces.to_string(),
        });
    }

    async fn print_notable_traces(&self) {
        match NotableTraces::fetch(self.b.spec.address).await {
            Ok(traces) => {
                for line in traces.lines(|trace_id| self.traces.link(trace_id)) {
                    self.terminal.print_status(line);
                }
            }
            Err(error) => {
                let mut cause: &dyn std::error::Error = &error;
                while let Some(source) = cause.source() {
                    cause = source;
                }
                self.terminal.print_status(format_args!("cannot read B's /metrics: {cause}"));
            }
        }
    }

    /// Stops B first, so that none of its calls finds A stopped, and Jaeger last, so that it receives
    /// the last spans.
    async fn stop(mut self) {
        let kill_after = self.shutdown_timeout + KILL_DELAY;
        self.b.stop(kill_after).await;
        self.a.stop(kill_after).await;
        self.traces.stop().await;
    }
}

/// Environment variables of both services.
fn common_env(traces: &TraceBackend) -> Vec<(&'static str, OsString)> {
    // The lab needs the log line that contains the address, whatever the user filters.
    let filter = std::env::var("RUST_LOG").ok().filter(|filter| !filter.is_empty());
    let filter = filter.as_deref().unwrap_or("info");
    let mut env = vec![("RUST_LOG", format!("{filter},observability=info").into())];
    // The default of 5 s is long for a user who waits for a trace.
    if std::env::var_os("OTEL_BSP_SCHEDULE_DELAY").is_none() {
        env.push(("OTEL_BSP_SCHEDULE_DELAY", "200".into()));
    }
    env.extend(traces.env());
    env
}

/// A service that the user can stop and start again.
struct SupervisedService {
    terminal: Terminal,
    spec: ServiceSpec,
    /// `None` while the service is stopped.
    process: Option<ServiceProcess>,
    is_stopping: bool,
}

impl SupervisedService {
    /// Starts the service and waits until it listens.
    async fn start(mut spec: ServiceSpec, terminal: Terminal) -> Result<Self, Error> {
        let mut process = ServiceProcess::spawn(&spec)?;
        let listening = async {
            let mut errors = Vec::new();
            loop {
                match process.next_event().await {
                    Event::Stdout(line) => {
                        terminal.print_log(spec.label, &line, None);
                        if let Some(address) = listening_address(&line) {
                            return Ok(address);
                        }
                    }
                    Event::Stderr(line) => errors.push(line),
                    Event::Exited(_) => return Err(errors.join("\n")),
                }
            }
        };
        let name = spec.name;
        // If the system selected the port, the service keeps it when it is started again.
        spec.address = match timeout(STARTUP_TIMEOUT, listening).await {
            Ok(Ok(address)) => address,
            Ok(Err(errors)) => {
                return Err(Error::other(format!("lab: {name} did not start: {errors}")));
            }
            Err(_) => {
                let text = format!("lab: {name} did not listen within {STARTUP_TIMEOUT:?}");
                return Err(Error::other(text));
            }
        };
        Ok(Self { terminal, spec, process: Some(process), is_stopping: false })
    }

    fn pid(&self) -> u32 {
        self.process.as_ref().and_then(ServiceProcess::pid).unwrap_or_default()
    }

    /// Waits for the next event of the process. Cancel safe.
    async fn next_event(&mut self) -> Event {
        match &mut self.process {
            Some(process) => process.next_event().await,
            None => std::future::pending().await,
        }
    }

    fn on_event(&mut self, event: Event, traces: &TraceBackend) {
        let label = self.spec.label;
        match event {
            Event::Stdout(line) => {
                let link = failed_trace_id(&line).and_then(|trace_id| traces.link(trace_id));
                self.terminal.print_log(label, &line, link.as_deref());
            }
            Event::Stderr(line) => self.terminal.print_log(label, &line, None),
            Event::Exited(status) => {
                let reason = if self.is_stopping { "stopped".to_owned() } else { describe(status) };
                let hint = if self.terminal.has_keys {
                    format!("; press {} to start it", label.to_ascii_lowercase())
                } else {
                    String::new()
                };
                self.terminal.print_status(format_args!("{label} is down: {reason}{hint}"));
                self.process = None;
                self.is_stopping = false;
            }
        }
    }

    /// Stops a running service, kills a stopping one, and starts a stopped one.
    fn toggle(&mut self) -> Result<(), Error> {
        let label = self.spec.label;
        match &mut self.process {
            Some(process) if self.is_stopping => process.kill(),
            Some(process) => {
                self.terminal.print_status(format_args!("stopping {label}"));
                self.is_stopping = true;
                process.close_stdin();
            }
            None => {
                let process = self.process.insert(ServiceProcess::spawn(&self.spec)?);
                let pid = process.pid().unwrap_or_default();
                self.terminal.print_status(format_args!("starting {label}, pid {pid}"));
            }
        }
        Ok(())
    }

    /// Stops the service, or kills it after `kill_after`.
    async fn stop(&mut self, kill_after: Duration) {
        let Some(process) = &mut self.process else { return };
        process.close_stdin();
        if timeout(kill_after, self.print_until_exit()).await.is_err() {
            if let Some(process) = &mut self.process {
                process.kill();
            }
            self.print_until_exit().await;
        }
    }

    /// Prints the remaining output of the running service.
    async fn print_until_exit(&mut self) {
        while let Event::Stdout(line) | Event::Stderr(line) = self.next_event().await {
            self.terminal.print_log(self.spec.label, &line, None);
        }
    }
}

fn describe(status: io::Result<ExitStatus>) -> String {
    let status = match status {
        Ok(status) => status,
        Err(error) => return error.to_string(),
    };
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        return format!("killed by signal {signal}");
    }
    match status.code() {
        Some(0) => "stopped".to_owned(),
        Some(code) => format!("exit code {code}"),
        None => "exited".to_owned(),
    }
}

/// Returns the address in the log line of a service that listens.
fn listening_address(line: &str) -> Option<SocketAddr> {
    log_field(line, "address")?.parse().ok()
}

/// Returns the trace id in the log line of a failed request.
fn failed_trace_id(line: &str) -> Option<&str> {
    let is_error = line.contains(" level=error ") || line.contains("\"level\":\"error\"");
    let id = log_field(line, "trace_id").filter(|_| is_error)?;
    (id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
}

/// Returns the last field with this name, in either log format. A value of an earlier field may quote
/// a client.
fn log_field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let key = if line.starts_with('{') { format!("\"{name}\":\"") } else { format!(" {name}=") };
    let (_, value) = line.rsplit_once(&key)?;
    value.split([' ', '"']).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_address_in_both_formats() {
        let address = "127.0.0.1:4000".parse().ok();
        for line in [
            r#"t level=info service=A msg="listening" address=127.0.0.1:4000 admin_address=127.0.0.1:1"#,
            r#"{"ts":"t","service":"A","msg":"listening","address":"127.0.0.1:4000"}"#,
        ] {
            assert_eq!(listening_address(line), address);
        }
        assert_eq!(listening_address("address=x"), None);
    }

    #[test]
    fn failed_request_has_trace_id() {
        let id = "0af7651916cd43dd8448eb211c80319c";
        for line in [
            format!(
                "t level=error service=B error=\"timeout\" trace_id={id} span_id=b7ad6b7169203331"
            ),
            format!(
                r#"{{"ts":"t","level":"error","trace_id":"{id}","span_id":"b7ad6b7169203331"}}"#
            ),
        ] {
            assert_eq!(failed_trace_id(&line), Some(id));
            assert_eq!(failed_trace_id(&line.replace("error", "info")), None);
        }
        assert_eq!(failed_trace_id("t level=error msg=\"no trace_id=here\""), None);
    }
}
