//! System that the run starts itself: service A, service B and a Jaeger on free ports.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use embedded_jaeger::JaegerConfig;
use observability::Error;
use reqwest::Url;
use serde_json::json;
use tokio::net::TcpSocket;
use tokio::time::timeout;

use super::suites::{Fault, Service, State, slow_delay};
use crate::fault_switch::set_fault;
use crate::http::endpoint;
use crate::jaeger::TraceBackend;
use crate::process::{Event, SERVICE_A, SERVICE_B, ServiceProcess};

/// Time after which a stopping service is killed. A service stops within 10 s by default.
const STOP_TIMEOUT: Duration = Duration::from_secs(11);

/// Maximum time until a service has logged a request that it has received.
const LOG_TIMEOUT: Duration = Duration::from_secs(10);

/// Variables of the shell that the services need. They inherit no other one, because it could be a setting.
const INHERITED: [&str; 4] =
    ["DYLD_LIBRARY_PATH", "LD_LIBRARY_PATH", "LLVM_PROFILE_FILE", "SYSTEMROOT"];

#[derive(Debug)]
pub(super) struct OwnSystem {
    a: ManagedService,
    b: ManagedService,
    pub(super) traces: TraceBackend,
    time_limit: Duration,
}

impl OwnSystem {
    pub(super) async fn start(time_limit: Duration) -> Result<Self, Error> {
        let jaeger = embedded_jaeger::start(JaegerConfig::with_ephemeral_ports()).await;
        let traces = TraceBackend::Embedded(jaeger.map_err(Error::other)?);
        let mut a = ManagedService::new(SERVICE_A, &traces)?;
        a.env.push(("FAULTS_ENABLED", "true".to_owned()));
        let mut b = ManagedService::new(SERVICE_B, &traces)?;
        b.env.push(("SERVICE_A_URL", format!("http://{}", a.address)));
        b.env.push(("SERVICE_A_TIMEOUT_MS", time_limit.as_millis().to_string()));
        Ok(Self { a, b, traces, time_limit })
    }

    pub(super) fn url(&self, service: Service) -> Result<Url, Error> {
        let address = if service == Service::A { self.a.address } else { self.b.address };
        Url::parse(&format!("http://{address}")).map_err(Error::other)
    }

    /// Starts, stops and breaks the services as `state` needs.
    pub(super) async fn enter(
        &mut self,
        client: &reqwest::Client,
        state: State,
    ) -> Result<(), Error> {
        self.a.set_running(state != State::Down(Service::A)).await?;
        self.b.set_running(state != State::Down(Service::B)).await?;
        if self.a.process.is_some() {
            let config = match state {
                State::Failing(fault) => fault.to_json(self.time_limit),
                _ => String::new(),
            };
            let url = endpoint(&self.url(Service::A)?, "faults");
            set_fault(client, &url, &config).await.map_err(Error::other)?;
        }
        Ok(())
    }

    /// Returns the log line of a request, or `None` if the service is down.
    pub(super) async fn log_line(&mut self, service: Service, trace_id: &str) -> Option<String> {
        let service = if service == Service::A { &mut self.a } else { &mut self.b };
        let process = service.process.as_mut()?;
        let find = async {
            loop {
                match process.next_event().await {
                    Event::Stdout(line) if line.contains(trace_id) => return Some(line),
                    Event::Stdout(_) | Event::Stderr(_) => {}
                    Event::Exited(_) => return None,
                }
            }
        };
        timeout(LOG_TIMEOUT, find).await.unwrap_or_default()
    }

    pub(super) async fn stop(mut self) {
        self.b.stop().await;
        self.a.stop().await;
        self.traces.stop().await;
    }
}

impl Fault {
    /// Returns the body of `PUT /faults`. `time_limit` is the timeout of B.
    pub(super) fn to_json(self, time_limit: Duration) -> String {
        let (name, value) = match self {
            Self::Hang => ("hang", json!(true)),
            Self::Slow => ("delay_ms", json!(slow_delay(time_limit).as_millis())),
            Self::Status500 => ("status", json!(500)),
            Self::MalformedBody => ("garbage", json!(true)),
            Self::Reset => ("reset", json!(true)),
        };
        // A run that is killed clears no fault.
        let ttl = time_limit * 2 + Duration::from_secs(60);
        json!({ name: value, "ttl_ms": ttl.as_millis() }).to_string()
    }
}

/// Service that is started on the same port again.
#[derive(Debug)]
struct ManagedService {
    name: &'static str,
    address: SocketAddr,
    /// Keeps other programs from taking the port while the service is stopped.
    _reserved_port: Option<TcpSocket>,
    env: Vec<(&'static str, String)>,
    process: Option<ServiceProcess>,
}

impl ManagedService {
    fn new(name: &'static str, traces: &TraceBackend) -> Result<Self, Error> {
        let (address, reserved_port) = reserve_port().map_err(Error::other)?;
        let mut env = traces.env();
        env.push(("OTEL_BSP_SCHEDULE_DELAY", "100".to_owned()));
        Ok(Self { name, address, _reserved_port: reserved_port, env, process: None })
    }

    async fn set_running(&mut self, is_running: bool) -> Result<(), Error> {
        match &self.process {
            Some(_) if !is_running => self.stop().await,
            None if is_running => {
                let inherited = INHERITED.iter().filter_map(|&name| {
                    let value = std::env::var_os(name)?;
                    Some((name, value))
                });
                let process = ServiceProcess::spawn(self.name, self.address, |command| {
                    let env = self.env.iter().map(|(name, value)| (name, value));
                    command.env_clear().envs(inherited).envs(env)
                })?;
                self.process.insert(process).wait_until_listening(|_| {}).await?;
            }
            _ => {}
        }
        Ok(())
    }

    async fn stop(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        process.close_stdin();
        let exit = async { while !matches!(process.next_event().await, Event::Exited(_)) {} };
        // Dropping the process kills it.
        let _ = timeout(STOP_TIMEOUT, exit).await;
    }
}

/// Selects a free port. On Linux other sockets with `SO_REUSEADDR` may listen on a port that is bound only,
/// and connections to it are refused.
fn reserve_port() -> io::Result<(SocketAddr, Option<TcpSocket>)> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
    Ok((socket.local_addr()?, cfg!(target_os = "linux").then_some(socket)))
}
