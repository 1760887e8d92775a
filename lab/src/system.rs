//! The whole system: A, then B; then whatever happens; then B stops, then A.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::process::ExitStatus;
use std::time::Duration;

use observability::Error;
use observability::server::ShutdownSignals;

use crate::child::{Child, Event, Plan, SERVICE_A, SERVICE_B};
use crate::highlights::{self, Highlights};
use crate::jaeger::Traces;
use crate::keys::Keys;
use crate::screen::{Greeting, Screen};
use crate::settings::Settings;

/// What a service may take to come up, on a machine that is busy compiling something else.
const START_LIMIT: Duration = Duration::from_secs(30);

/// What is added to the service's own bound on stopping before it is ended the hard way.
const STOP_MARGIN: Duration = Duration::from_secs(1);

/// Runs the system until told to stop.
pub(crate) async fn run(settings: Settings) -> Result<(), Error> {
    let mut screen = Screen::new();
    let mut signals = ShutdownSignals::new()?;
    let started = tokio::select! {
        started = System::start(&settings, screen) => Some(started?),
        _ = signals.recv() => None,
    };
    let Some(mut system) = started else {
        return Ok(());
    };
    let mut keys = Keys::read();
    screen.keys = keys.available;
    system.greet(screen);
    loop {
        tokio::select! {
            event = system.a.next() => system.a.show(event, screen, &system.traces),
            event = system.b.next() => system.b.show(event, screen, &system.traces),
            key = keys.next() => match key {
                'a' => system.a.toggle(screen)?,
                'b' => system.b.toggle(screen)?,
                't' => system.show_highlights().await,
                'q' => break,
                _ => {}
            },
            _ = signals.recv() => break,
        }
    }
    drop(keys);
    tokio::select! {
        () = system.stop() => Ok(()),
        _ = signals.recv() => Err(Error::other("lab: second signal: stopped at once")),
    }
}

struct System {
    screen: Screen,
    a: Slot,
    b: Slot,
    traces: Traces,
}

impl System {
    async fn start(settings: &Settings, screen: Screen) -> Result<Self, Error> {
        let traces = Traces::start(&settings.jaeger).await?;
        let env = shared_env(&traces);

        let mut a_env = env.clone();
        a_env.push(("FAULTS_ENABLED", "true".into()));
        let a = Plan { name: SERVICE_A, mark: 'A', address: settings.service_a, env: a_env };
        let a = Slot::start(a, screen).await?;

        let mut b_env = env;
        b_env.push(("SERVICE_A_URL", format!("http://{}", a.plan.address).into()));
        let b = Plan { name: SERVICE_B, mark: 'B', address: settings.service_b, env: b_env };
        let b = Slot::start(b, screen).await?;
        Ok(Self { screen, a, b, traces })
    }

    fn greet(&self, screen: Screen) {
        screen.greet(&Greeting {
            a: &self.a.plan.address.to_string(),
            b: &self.b.plan.address.to_string(),
            a_pid: self.a.pid(),
            b_pid: self.b.pid(),
            traces: &self.traces.to_string(),
        });
    }

    /// The slowest request and the last failed one of each kind, with their traces.
    async fn show_highlights(&self) {
        match Highlights::of(self.b.plan.address).await {
            Ok(highlights) => {
                for line in highlights.show(|trace_id| self.traces.link(trace_id)) {
                    self.screen.say(line);
                }
            }
            Err(error) => self.screen.say(highlights::unavailable(&error)),
        }
    }

    /// Callers first, so that no call finds its service gone; Jaeger last, for their last spans.
    async fn stop(&mut self) {
        let screen = self.screen;
        self.b.stop(screen).await;
        self.a.stop(screen).await;
        self.traces.stop().await;
    }
}

/// What all services are told.
fn shared_env(traces: &Traces) -> Vec<(&'static str, OsString)> {
    let mut env = Vec::new();
    // The line that says where a service listens is needed here, whatever else is filtered.
    let filter = std::env::var("RUST_LOG").ok().filter(|filter| !filter.is_empty());
    let filter = filter.unwrap_or_else(|| "info".to_owned());
    env.push(("RUST_LOG", format!("{filter},observability=info").into()));
    // Who sits before the screen does not want to wait five seconds for a trace.
    if std::env::var_os("OTEL_BSP_SCHEDULE_DELAY").is_none() {
        env.push(("OTEL_BSP_SCHEDULE_DELAY", "200".into()));
    }
    env.extend(traces.env());
    env
}

/// A service and, while it runs, its process.
struct Slot {
    plan: Plan,
    child: Option<Child>,
    stopping: bool,
}

impl Slot {
    /// Starts a service for the first time and waits until it listens.
    async fn start(mut plan: Plan, screen: Screen) -> Result<Self, Error> {
        let mut child = Child::start(&plan)?;
        let came_up = tokio::time::timeout(START_LIMIT, async {
            let mut complaints = Vec::new();
            while let Some(event) = child.next().await {
                match event {
                    Event::Line(line) => {
                        let address = listening_address(&line);
                        screen.log(plan.mark, &line, None);
                        if let Some(address) = address {
                            return Ok(address);
                        }
                    }
                    Event::Complaint(line) => complaints.push(line),
                    Event::Ended(_) => {}
                }
            }
            Err(complaints.join("\n"))
        });
        match came_up.await {
            Ok(Ok(address)) => {
                // A free port was asked for once; started again, the service keeps it.
                plan.address = address;
                Ok(Self { plan, child: Some(child), stopping: false })
            }
            Ok(Err(why)) => Err(Error::other(format!("lab: {} did not start: {why}", plan.name))),
            Err(_) => {
                let name = plan.name;
                Err(Error::other(format!("lab: {name} did not listen within {START_LIMIT:?}")))
            }
        }
    }

    fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, |child| child.pid)
    }

    async fn next(&mut self) -> Option<Event> {
        match &mut self.child {
            Some(child) => child.next().await,
            None => std::future::pending().await,
        }
    }

    fn show(&mut self, event: Option<Event>, screen: Screen, traces: &Traces) {
        let mark = self.plan.mark;
        match event {
            Some(Event::Line(line)) => {
                let link = failed_trace(&line).and_then(|id| traces.link(id));
                screen.log(mark, &line, link.as_deref());
            }
            Some(Event::Complaint(line)) => screen.log(mark, &line, None),
            Some(Event::Ended(status)) => {
                let how = if self.stopping { "stopped".to_owned() } else { describe(status) };
                let key = mark.to_ascii_lowercase();
                let again = if screen.keys {
                    format!("; the key {key} starts it again")
                } else {
                    String::new()
                };
                screen.say(format_args!("{mark} is down: {how}{again}"));
            }
            None => {
                self.child = None;
                self.stopping = false;
            }
        }
    }

    /// Stops a running service, or starts a stopped one. Pressed again while it stops, ends it.
    fn toggle(&mut self, screen: Screen) -> Result<(), Error> {
        let mark = self.plan.mark;
        match &mut self.child {
            Some(child) if self.stopping => child.kill(),
            Some(child) => {
                screen.say(format_args!("stopping {mark}"));
                self.stopping = true;
                child.ask_to_stop();
            }
            None => {
                let child = Child::start(&self.plan)?;
                screen.say(format_args!("starting {mark}, pid {}", child.pid));
                self.child = Some(child);
            }
        }
        Ok(())
    }

    async fn stop(&mut self, screen: Screen) {
        self.stopping = true;
        let mark = self.plan.mark;
        if let Some(mut child) = self.child.take() {
            let limit = shutdown_timeout() + STOP_MARGIN;
            let show = |event| match event {
                Event::Line(line) | Event::Complaint(line) => screen.log(mark, &line, None),
                Event::Ended(_) => {}
            };
            child.stop(limit, show).await;
        }
    }
}

/// The bound that the services have been given on stopping.
fn shutdown_timeout() -> Duration {
    let config: Result<observability::Config, _> = service_a::SERVICE.parse(["lab".into()]);
    config.map_or(Duration::from_secs(10), |config| config.shutdown_timeout())
}

fn describe(status: ExitStatus) -> String {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        return format!("ended by signal {signal}");
    }
    match status.code() {
        Some(0) => "stopped".to_owned(),
        Some(code) => format!("ended with exit code {code}"),
        None => "ended".to_owned(),
    }
}

/// The address in a service's first line, in either log format.
fn listening_address(line: &str) -> Option<SocketAddr> {
    [" address=", "\"address\":\""].into_iter().find_map(|key| {
        let (_, rest) = line.split_once(key)?;
        rest.split([' ', '"']).next()?.parse().ok()
    })
}

/// The trace id in the line of a request that failed, in either log format.
fn failed_trace(line: &str) -> Option<&str> {
    let failed = line.contains(" level=error ") || line.contains("\"level\":\"error\"");
    [" trace_id=", "\"trace_id\":\""].into_iter().filter(|_| failed).find_map(|key| {
        // The last one is ours: what stands before may quote a caller.
        let (_, rest) = line.rsplit_once(key)?;
        rest.get(..32).filter(|id| id.bytes().all(|byte| byte.is_ascii_hexdigit()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_found_in_both_formats() {
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
    fn a_failed_request_has_a_trace_to_open() {
        let id = "0af7651916cd43dd8448eb211c80319c";
        for line in [
            format!(
                "t level=error service=B error=\"timeout\" trace_id={id} span_id=b7ad6b7169203331"
            ),
            format!(
                r#"{{"ts":"t","level":"error","trace_id":"{id}","span_id":"b7ad6b7169203331"}}"#
            ),
        ] {
            assert_eq!(failed_trace(&line), Some(id));
            assert_eq!(failed_trace(&line.replace("error", "info")), None);
        }
        assert_eq!(failed_trace("t level=error msg=\"no trace_id=here\""), None);
    }
}
