//! HTTP server that misbehaves in ways that no real server can be configured to.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use socket2::SockRef;

use crate::event_log::EventLog;
use crate::http::{read_body, read_headers};
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
    /// Body, without chunked encoding.
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
    /// Connections accepted so far; `None` once the server is dropped.
    streams: Mutex<Option<Vec<Weak<TcpStream>>>>,
}

impl FakeServer {
    /// Starts a server that reacts to every request with `reply`.
    pub fn start(reply: Reply) -> Self {
        Self::start_on(TcpListener::bind("127.0.0.1:0").expect("listen"), reply)
    }

    /// Starts a server on this listener.
    pub fn start_on(listener: TcpListener, reply: Reply) -> Self {
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            reply: Mutex::new(reply),
            requests: EventLog::default(),
            closed: EventLog::default(),
            sends_delayed: EventLog::default(),
            streams: Mutex::new(Some(Vec::new())),
        });
        let acceptor = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream.map(Arc::new) else { return };
                match &mut *acceptor.streams.lock() {
                    Some(streams) => streams.push(Arc::downgrade(&stream)),
                    None => return,
                }
                let shared = Arc::clone(&acceptor);
                thread::spawn(move || {
                    let _ = shared.handle_connection(&stream);
                    drop(stream);
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
        self.shared.streams.lock().iter().flatten().count()
    }

    /// Waits until `count` connections have been closed.
    pub fn wait_for_closed_connections(&self, count: usize) {
        let description = format!("{count} closed connections");
        self.shared.closed.wait_for(&description, |closed| closed.get(count - 1).copied());
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        for stream in self.shared.streams.lock().take().into_iter().flatten() {
            if let Some(stream) = stream.upgrade() {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
        self.shared.sends_delayed.push(());
        // Wakes the accepting thread, which then closes the listener.
        let _ = TcpStream::connect_timeout(&self.address, TEST_TIMEOUT);
    }
}

impl Shared {
    /// Reacts to the requests of one connection until the reply or the client ends it.
    fn handle_connection(&self, mut stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(TEST_TIMEOUT))?;
        let mut input = BufReader::new(stream);
        loop {
            let (line, headers) = read_headers(&mut input)?;
            let body = read_body(&mut input, &headers)?;
            let reply = self.reply.lock().clone();
            self.requests.push(ReceivedRequest { line, headers, body });
            if let Reply::Delayed(..) = reply {
                self.sends_delayed
                    .wait_for("a call of send_delayed", |calls| calls.first().copied());
            }
            match reply {
                Reply::Json(status, body) | Reply::Delayed(status, body) => {
                    let length = body.len();
                    write!(
                        stream,
                        "HTTP/1.1 {status} Fake\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
                    )?;
                }
                Reply::Close(bytes) => {
                    stream.write_all(&bytes)?;
                    stream.shutdown(Shutdown::Write)?;
                    // Closing a socket with unread data would reset the connection.
                    return io::copy(&mut input, &mut io::sink()).map(drop);
                }
                Reply::Reset(bytes) => {
                    stream.write_all(&bytes)?;
                    return SockRef::from(stream).set_linger(Some(Duration::ZERO));
                }
                Reply::Stall(bytes) => {
                    stream.write_all(&bytes)?;
                    return io::copy(&mut input, &mut io::sink()).map(drop);
                }
                Reply::SlowBody(bytes) => {
                    stream.write_all(&bytes)?;
                    return repeat(stream, b"x", SLOW_BODY_INTERVAL);
                }
                Reply::EndlessBody(bytes) => {
                    stream.write_all(&bytes)?;
                    return repeat(stream, &[b'x'; 64 * 1024], Duration::ZERO);
                }
            }
        }
    }
}

/// Writes `block` at this interval. Limited to [`TEST_TIMEOUT`], so that a client that never stops reading
/// fails its own test only.
fn repeat(mut output: impl Write, block: &[u8], interval: Duration) -> io::Result<()> {
    let deadline = Instant::now() + TEST_TIMEOUT;
    while Instant::now() < deadline {
        output.write_all(block)?;
        thread::sleep(interval);
    }
    Ok(())
}
