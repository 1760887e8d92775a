//! Stand-in for a stopped service A that fails each call.

use std::future::pending;

use reqwest::Url;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::suites::Fault;

/// Listeners of the stand-in and their connections.
#[derive(Debug)]
pub(super) struct StandIn(JoinSet<()>);

impl StandIn {
    /// Listens on the address of service A, or returns the reason why it cannot.
    pub(super) async fn start(service_a: &Url, fault: Fault) -> Result<Self, String> {
        let reply = fault.reply().ok_or("service A is down")?;
        let addresses = service_a.socket_addrs(|| None).map_err(|error| error.to_string())?;
        if !addresses.iter().all(|address| address.ip().is_loopback()) {
            return Err("service A is down and its address is not a loopback address".to_owned());
        }
        let mut servers = JoinSet::new();
        let mut result = Err("service A has no address".to_owned());
        // `localhost` has an IPv4 and an IPv6 address, of which the system may lack one.
        for address in addresses {
            match TcpListener::bind(address).await {
                Ok(listener) => drop(servers.spawn(serve(listener, reply))),
                Err(error) => result = Err(format!("cannot listen on {address}: {error}")),
            }
        }
        if servers.is_empty() { result.map(|()| Self(servers)) } else { Ok(Self(servers)) }
    }

    /// Closes the listeners and all connections.
    pub(super) async fn stop(mut self) {
        self.0.shutdown().await;
    }
}

impl Fault {
    /// Returns the bytes after which the connection is closed. [`Fault::Hang`] has none, and the stand-in
    /// cannot produce [`Fault::Slow`], which succeeds.
    fn reply(self) -> Option<Option<&'static str>> {
        match self {
            Self::Hang => Some(None),
            Self::Slow => None,
            Self::Status500 => Some(Some(
                "HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\n\
                 Content-Length: 17\r\nConnection: close\r\n\r\n{\"error\":\"fault\"}",
            )),
            Self::MalformedBody => Some(Some(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\
                 Content-Length: 8\r\nConnection: close\r\n\r\n{\"echo\":",
            )),
            Self::Reset => Some(Some(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\
                 Content-Length: 100\r\n\r\n{\"echo\":",
            )),
        }
    }
}

async fn serve(listener: TcpListener, reply: Option<&'static str>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(respond(stream, reply));
    }
}

async fn respond(mut stream: TcpStream, reply: Option<&'static str>) {
    let mut headers = BufReader::new(&mut stream).lines();
    while headers.next_line().await.is_ok_and(|line| line.is_some_and(|line| !line.is_empty())) {}
    match reply {
        // A client that disconnects does not fail the test.
        Some(reply) => drop(stream.write_all(reply.as_bytes()).await),
        None => pending().await,
    }
}
