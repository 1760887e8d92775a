//! Stand-in for a stopped service A with a fault.

use std::future::pending;
use std::time::Duration;

use reqwest::Url;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::suites::{Fault, slow_delay};

/// Listeners of the stand-in and their connections.
#[derive(Debug)]
pub(super) struct StandIn(JoinSet<()>);

impl StandIn {
    /// Listens on the address of service A, or returns the reason why it cannot.
    pub(super) async fn start(
        service_a: &Url,
        fault: Fault,
        time_limit: Duration,
    ) -> Result<Self, String> {
        let addresses = service_a.socket_addrs(|| None).map_err(|error| error.to_string())?;
        if !addresses.iter().all(|address| address.ip().is_loopback()) {
            return Err("service A is down and its address is not a loopback address".to_owned());
        }
        let mut servers = JoinSet::new();
        let mut result = Err("service A has no address".to_owned());
        // `localhost` has an IPv4 and an IPv6 address, of which the system may lack one.
        for address in addresses {
            match TcpListener::bind(address).await {
                Ok(listener) => drop(servers.spawn(serve(listener, fault, time_limit))),
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

async fn serve(listener: TcpListener, fault: Fault, time_limit: Duration) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(respond(stream, fault, time_limit));
    }
}

async fn respond(mut stream: TcpStream, fault: Fault, time_limit: Duration) {
    let mut lines = BufReader::new(&mut stream).lines();
    let mut head = Vec::new();
    while let Ok(Some(line)) = lines.next_line().await
        && !line.is_empty()
    {
        head.push(line);
    }
    let ok = |body: &str, length| response("200 OK", body, length);
    let incomplete_body = r#"{"echo":"#;
    let response = match fault {
        Fault::Hang => pending().await,
        Fault::Slow => {
            sleep(slow_delay(time_limit)).await;
            let body = json!({ "echo": message(&head) }).to_string();
            ok(&body, body.len())
        }
        Fault::Status500 => {
            let body = r#"{"error":"fault"}"#;
            response("500 Internal Server Error", body, body.len())
        }
        Fault::MalformedBody => ok(incomplete_body, incomplete_body.len()),
        Fault::Reset => ok(incomplete_body, 100),
    };
    // A client that disconnects does not fail the test.
    let _ = stream.write_all(response.as_bytes()).await;
}

/// Returns the parameter `msg` of a request with these lines.
fn message(head: &[String]) -> Option<String> {
    let target = head.first()?.split(' ').nth(1)?;
    let url = Url::parse("http://a").ok()?.join(target).ok()?;
    url.query_pairs().find(|(name, _)| name == "msg").map(|(_, msg)| msg.into_owned())
}

/// Returns a response that announces a body of `length` bytes. The connection is closed after it.
fn response(status: &str, body: &str, length: usize) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    )
}
