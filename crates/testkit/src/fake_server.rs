//! HTTP server that misbehaves in ways that no real server can be configured to.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use socket2::SockRef;

use crate::event_log::EventLog;
use crate::wait::TEST_TIMEOUT;

/// Interval between the bytes of [`Reply::SlowBody`]. It is far below any read timeout, so that a client
/// that restarts its timeout at each read never gives up.
const SLOW_BODY_INTERVAL: Duration = Duration::from_millis(20);

/// Reaction of the server to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Sends a JSON response with this status. The connection stays open for further requests.
    Json(u16, String),
    /// Sends a response like [`Json`](Self::Json) once [`FakeServer::send_delayed`] is called.
    Delayed(u16, String),
    /// Sends bytes and closes the connection.
    Close(Vec<u8>),
    /// Sends bytes and resets the connection.
    Reset(Vec<u8>),
    /// Sends bytes and then nothing more. The connection stays open.
    Stall(Vec<u8>),
    /// Sends bytes and then one `x` every few milliseconds, without end.
    SlowBody(Vec<u8>),
    /// Sends bytes and then `x` as fast as the client reads, without end.
    EndlessBody(Vec<u8>),
}

impl Reply {
    /// Creates the response of service A to `/echo`.
    pub fn echo(text: &str) -> Self {
        Self::Json(200, serde_json::json!({ "echo": text }).to_string())
    }

    /// Returns the headers of a JSON response with a body of `length` bytes, followed by the start of the
    /// body.
    pub fn start_of(length: usize, body: &str) -> Vec<u8> {
        format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .into_bytes()
    }
}

/// Request as the server received it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedRequest {
    /// Request line: method, target and version.
    pub line: String,
    /// Headers, names in lower case; values of repeated headers are joined with commas.
    pub headers: BTreeMap<String, String>,
    /// Body; empty if the request has no `Content-Length`.
    pub body: Vec<u8>,
}

/// Server on a free port. Dropping it closes its connections.
#[derive(Debug)]
pub struct FakeServer {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    reply: Mutex<Reply>,
    requests: EventLog<ReceivedRequest>,
    closed: EventLog<()>,
    sends_delayed: EventLog<()>,
    streams: Mutex<Vec<TcpStream>>,
    accepted: AtomicUsize,
    is_stopped: AtomicBool,
}

impl FakeServer {
    /// Starts a server that reacts to every request with `reply`.
    pub fn start(reply: Reply) -> Self {
        Self::serve(TcpListener::bind("127.0.0.1:0").expect("listen"), reply)
    }

    pub(crate) fn serve(listener: TcpListener, reply: Reply) -> Self {
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            reply: Mutex::new(reply),
            requests: EventLog::default(),
            closed: EventLog::default(),
            sends_delayed: EventLog::default(),
            streams: Mutex::default(),
            accepted: AtomicUsize::new(0),
            is_stopped: AtomicBool::new(false),
        });
        let acceptor = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let shared = Arc::clone(&acceptor);
                // The lock keeps `drop` from missing a connection that is accepted meanwhile.
                let mut streams = shared.streams.lock();
                if shared.is_stopped.load(Ordering::SeqCst) {
                    return;
                }
                streams.push(stream.try_clone().unwrap());
                shared.accepted.fetch_add(1, Ordering::SeqCst);
                drop(streams);
                thread::spawn(move || {
                    let _ = shared.handle_connection(stream);
                    shared.closed.push(());
                });
            }
        });
        Self { address, shared }
    }

    /// Returns the address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Sets the reaction to all further requests.
    pub fn set_reply(&self, reply: Reply) {
        *self.shared.reply.lock() = reply;
    }

    /// Sends all [delayed](Reply::Delayed) responses. Later ones are sent immediately.
    pub fn send_delayed(&self) {
        self.shared.sends_delayed.push(());
    }

    /// Returns the requests received so far.
    pub fn requests(&self) -> Vec<ReceivedRequest> {
        self.shared.requests.events()
    }

    /// Waits for request `number`, counted from 1, and returns it.
    pub fn wait_for_request(&self, number: usize) -> ReceivedRequest {
        let description = format!("request {number}");
        self.shared.requests.wait_for(&description, |requests| requests.get(number - 1).cloned())
    }

    /// Returns the number of connections accepted so far.
    pub fn connection_count(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Waits until `count` connections have been closed.
    pub fn wait_for_closed_connections(&self, count: usize) {
        let is_reached = |closed: &[()]| (closed.len() >= count).then_some(());
        self.shared.closed.wait_for(&format!("{count} closed connections"), is_reached);
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        let streams = {
            let mut streams = self.shared.streams.lock();
            self.shared.is_stopped.store(true, Ordering::SeqCst);
            std::mem::take(&mut *streams)
        };
        for stream in streams {
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.shared.sends_delayed.push(());
        // Wakes the accepting thread, which then closes the listener.
        let _ = TcpStream::connect_timeout(&self.address, TEST_TIMEOUT);
    }
}

impl Shared {
    /// Reacts to the requests of one connection until the reply or the client ends it.
    fn handle_connection(&self, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(TEST_TIMEOUT))?;
        let mut output = stream.try_clone()?;
        let mut input = BufReader::new(stream);
        while let Some(request) = read_request(&mut input)? {
            let reply = self.reply.lock().clone();
            self.requests.push(request);
            match reply {
                Reply::Json(status, body) => write_json(&mut output, status, &body)?,
                Reply::Delayed(status, body) => {
                    self.sends_delayed.wait_for("a call of send_delayed", |calls| {
                        (!calls.is_empty()).then_some(())
                    });
                    write_json(&mut output, status, &body)?;
                }
                Reply::Close(bytes) => {
                    output.write_all(&bytes)?;
                    return output.shutdown(Shutdown::Both);
                }
                Reply::Reset(bytes) => {
                    output.write_all(&bytes)?;
                    // The system sends the reset when the last handle is closed.
                    self.remove_stream(&output)?;
                    return SockRef::from(&output).set_linger(Some(Duration::ZERO));
                }
                Reply::Stall(bytes) => {
                    output.write_all(&bytes)?;
                    return io::copy(&mut input, &mut io::sink()).map(drop);
                }
                Reply::SlowBody(bytes) => {
                    output.write_all(&bytes)?;
                    for _ in 0..TEST_TIMEOUT.as_millis() / SLOW_BODY_INTERVAL.as_millis() {
                        output.write_all(b"x")?;
                        thread::sleep(SLOW_BODY_INTERVAL);
                    }
                }
                Reply::EndlessBody(bytes) => {
                    output.write_all(&bytes)?;
                    let block = [b'x'; 64 * 1024];
                    // Limited to 4 GiB, so that a client that never stops reading fails its own test only.
                    for _ in 0..64 * 1024 {
                        output.write_all(&block)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn remove_stream(&self, stream: &TcpStream) -> io::Result<()> {
        let peer = stream.peer_addr()?;
        self.streams.lock().retain(|other| other.peer_addr().is_ok_and(|other| other != peer));
        Ok(())
    }
}

fn write_json(output: &mut impl Write, status: u16, body: &str) -> io::Result<()> {
    let length = body.len();
    write!(
        output,
        "HTTP/1.1 {status} Fake\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

/// Reads a request. Returns `None` if the client has closed the connection.
fn read_request(input: &mut impl BufRead) -> io::Result<Option<ReceivedRequest>> {
    const MAX_LINE_BYTES: u64 = 1024 * 1024;
    let mut line = String::new();
    if input.take(MAX_LINE_BYTES).read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut headers: BTreeMap<String, String> = BTreeMap::new();
    loop {
        let mut header = String::new();
        input.take(MAX_LINE_BYTES).read_line(&mut header)?;
        let Some((name, value)) = header.trim_end().split_once(':') else { break };
        let values = headers.entry(name.to_ascii_lowercase()).or_default();
        if !values.is_empty() {
            values.push(',');
        }
        values.push_str(value.trim());
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    input.read_exact(&mut body)?;
    Ok(Some(ReceivedRequest { line: line.trim_end().to_owned(), headers, body }))
}
