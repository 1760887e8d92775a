//! Starts A and B, forwards their output until the user quits, and stops them in reverse order.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::time::Duration;

use observability::server::ShutdownSignals;
use observability::{Config, Error, ErrorKind};
use tokio::time::timeout;

use crate::args::Args;
use crate::jaeger::TraceBackend;
use crate::keyboard::KeyReader;
use crate::log_line::failed_trace_id;
use crate::notable_traces;
use crate::port_check::check_addresses;
use crate::process::{Event, SERVICE_A, SERVICE_B, ServiceProcess};
use crate::terminal::{print_line, print_log, print_status};

/// Time beyond its own shutdown timeout after which a service is killed.
const KILL_DELAY: Duration = Duration::from_secs(1);

/// Variables of the services that the lab overrides.
const OVERRIDDEN: [&str; 4] = ["ADMIN_ADDR", "FAULTS_ENABLED", "LISTEN_ADDR", "SERVICE_A_URL"];

/// Runs the system until a shutdown signal or the key `q`.
pub(crate) async fn run(args: impl Iterator<Item = OsString>) -> Result<(), Error> {
    let args = Args::parse(args)?;
    let mut signals = ShutdownSignals::new()?;
    let mut keys = KeyReader::new();
    let mut system = tokio::select! {
        system = System::start(args) => system?,
        signal = signals.recv() => {
            print_status(format_args!("{signal}, ending the startup"));
            return Ok(());
        }
        never = keys.ignore_all() => match never {},
    };
    system.print_banner(keys.is_available());
    let reason = loop {
        tokio::select! {
            event = system.a.next_event() => system.a.on_event(event, &system.traces),
            event = system.b.next_event() => system.b.on_event(event, &system.traces),
            key = keys.next() => match key {
                'a' => system.a.toggle(),
                'b' => system.b.toggle(),
                't' => system.print_notable_traces().await,
                'q' => break "q",
                _ => {}
            },
            signal = signals.recv() => break signal,
        }
    };
    print_status(format_args!("{reason}, stopping B, then A; a second signal ends it at once"));
    tokio::select! {
        () = system.stop() => Ok(()),
        _ = signals.recv() => Err(Error::other("lab: aborted by a second signal")),
        never = keys.ignore_all() => match never {},
    }
}

fn warn_of_overridden() {
    let is_set = |name: &&str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let set: Vec<_> = OVERRIDDEN.into_iter().filter(is_set).collect();
    if !set.is_empty() {
        print_status(format_args!("ignoring {}, which the lab sets for A and B", set.join(", ")));
    }
}

struct System {
    a: SupervisedService,
    b: SupervisedService,
    traces: TraceBackend,
    kill_after: Duration,
}

impl System {
    async fn start(args: Args) -> Result<Self, Error> {
        // The lab overrides the variables of both addresses.
        let flags = [SERVICE_B, "--listen-addr=", "--admin-addr="].map(OsString::from);
        let config: Config = service_b::SERVICE.parse(flags)?;
        let kill_after = config.shutdown_timeout() + KILL_DELAY;
        warn_of_overridden();
        check_addresses(args.service_addresses())?;
        let traces = TraceBackend::start(&args).await?;

        let mut a = SupervisedService::new(SERVICE_A, 'A', args.service_a_addr, &traces);
        a.env.push(("FAULTS_ENABLED", "true".to_owned()));
        a.start().await?;
        let mut b = SupervisedService::new(SERVICE_B, 'B', args.service_b_addr, &traces);
        b.env.push(("SERVICE_A_URL", format!("http://{}", a.address)));
        b.start().await?;
        Ok(Self { a, b, traces, kill_after })
    }

    fn print_banner(&self, has_keys: bool) {
        let (a, b, traces) = (self.a.address, self.b.address, &self.traces);
        let (a_pid, b_pid) = (self.a.pid(), self.b.pid());
        let keys = if has_keys {
            "a stops or starts A, b does the same for B, t lists notable traces,
  q or Ctrl-C ends it all"
        } else {
            "Ctrl-C ends it all"
        };
        print_line(format_args!(
            "
  Two services, one trace. Try:

    curl \"http://{b}/call-echo?msg=hello\"

  traces    {traces}
  metrics   http://{b}/metrics  http://{a}/metrics
  A         http://{a}  pid {a_pid}  the echo API
  B         http://{b}  pid {b_pid}  calls A

  break A   kill {a_pid}
            curl -X PUT http://{a}/faults -d '{{\"delay_ms\":1500}}'
  repair A  curl -X DELETE http://{a}/faults

  {keys}
"
        ));
    }

    async fn print_notable_traces(&self) {
        let traces = match notable_traces::fetch(self.b.address).await {
            Ok(traces) => traces,
            Err(error) => {
                let kind = ErrorKind::from_reqwest(&error);
                return print_status(format_args!("cannot read B's /metrics: {kind}"));
            }
        };
        let mut is_empty = true;
        for trace in traces {
            // The store drops the oldest traces, and spans arrive with a delay.
            if self.traces.has_trace(&trace.trace_id) {
                let link = self.traces.link(&trace.trace_id);
                let link = link.unwrap_or_else(|| format!("trace {}", trace.trace_id));
                print_status(format_args!("{trace}\n  {link}"));
                is_empty = false;
            }
        }
        if is_empty {
            print_status("no traced request in the last five minutes");
        }
    }

    /// Stops B first, so that none of its calls finds A stopped, and Jaeger last, so that it receives
    /// the last spans.
    async fn stop(self) {
        self.b.stop(self.kill_after).await;
        self.a.stop(self.kill_after).await;
        self.traces.stop().await;
    }
}

/// A service that the user can stop and start again.
struct SupervisedService {
    /// Subcommand that runs the service.
    name: &'static str,
    /// Prefix of its lines on the terminal.
    label: char,
    address: SocketAddr,
    /// Environment variables that the lab sets.
    env: Vec<(&'static str, String)>,
    /// `None` while the service is stopped.
    process: Option<ServiceProcess>,
}

impl SupervisedService {
    fn new(name: &'static str, label: char, address: SocketAddr, traces: &TraceBackend) -> Self {
        let mut env = traces.env();
        // The lab needs the log line that contains the address, whatever the user filters.
        let filter = std::env::var("RUST_LOG").ok().filter(|filter| !filter.is_empty());
        let filter = filter.as_deref().unwrap_or("info");
        env.push(("RUST_LOG", format!("{filter},observability=info")));
        // The default of 5 s is long for a user who waits for a trace.
        if std::env::var_os("OTEL_BSP_SCHEDULE_DELAY").is_none() {
            env.push(("OTEL_BSP_SCHEDULE_DELAY", "200".to_owned()));
        }
        Self { name, label, address, env, process: None }
    }

    /// Starts the service and waits until it listens.
    async fn start(&mut self) -> Result<(), Error> {
        let process = self.process.insert(self.spawn()?);
        let label = self.label;
        // If the system selected the port, the service keeps it when it is started again.
        self.address = process.wait_until_listening(|line| print_log(label, line, None)).await?;
        Ok(())
    }

    fn spawn(&self) -> Result<ServiceProcess, Error> {
        let env = self.env.iter().map(|(name, value)| (name, value));
        ServiceProcess::spawn(self.name, self.address, |command| command.envs(env))
    }

    fn pid(&self) -> u32 {
        self.process.as_ref().map_or(0, ServiceProcess::pid)
    }

    /// Waits for the next event of the process. Cancel safe.
    async fn next_event(&mut self) -> Event {
        match &mut self.process {
            Some(process) => process.next_event().await,
            None => std::future::pending().await,
        }
    }

    fn on_event(&mut self, event: Event, traces: &TraceBackend) {
        match event {
            Event::Stdout(line) | Event::Stderr(line) => {
                let link = failed_trace_id(&line).and_then(|trace_id| traces.link(trace_id));
                print_log(self.label, &line, link.as_deref());
            }
            Event::Exited(status) => {
                print_status(format_args!("{} is down: {status}", self.label));
                self.process = None;
            }
        }
    }

    /// Stops a running service, kills a stopping one, and starts a stopped one.
    fn toggle(&mut self) {
        let label = self.label;
        match &mut self.process {
            Some(process) if process.is_stopping() => process.kill(),
            Some(process) => {
                print_status(format_args!("stopping {label}"));
                process.close_stdin();
            }
            None => match self.spawn() {
                Ok(process) => {
                    print_status(format_args!("starting {label}, pid {}", process.pid()));
                    self.process = Some(process);
                }
                // For example because the lab has no free file descriptor.
                Err(error) => print_status(error),
            },
        }
    }

    /// Stops the service, or kills it after `kill_after`.
    async fn stop(self, kill_after: Duration) {
        let Some(mut process) = self.process else { return };
        process.close_stdin();
        let print_until_exit = async {
            while let Event::Stdout(line) | Event::Stderr(line) = process.next_event().await {
                print_log(self.label, &line, None);
            }
        };
        // Dropping the process kills it.
        let _ = timeout(kill_after, print_until_exit).await;
    }
}
