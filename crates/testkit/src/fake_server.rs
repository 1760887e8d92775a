//! A server that misbehaves by script, in ways that no real one can be asked to.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

use crate::{EventLog, TEST_TIMEOUT};

/// What the server does once it has read a request's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// A whole answer in JSON; the connection stays open for the next request.
    Json(u16, String),
    /// As [`Json`](Self::Json), but not before [`FakeServer::release`] is called.
    Delayed(u16, String),
    /// These bytes, then an orderly close.
    Close(Vec<u8>),
    /// These bytes, then a reset.
    Reset(Vec<u8>),
    /// These bytes, then nothing more; the connection stays open.
    Stall(Vec<u8>),
    /// These bytes, then one more `x` every few milliseconds, without end.
    SlowBody(Vec<u8>),
    /// These bytes, then `x` as fast as they are read, without end.
    EndlessBody(Vec<u8>),
}

impl Reply {
    /// 200 and an echo.
    pub fn echo(text: &str) -> Self {
        Self::Json(200, serde_json::json!({ "echo": text }).to_string())
    }

    /// The head of a 200 that announces `length` bytes of JSON, and the start of a body.
    pub fn start_of(length: usize, body: &str) -> Vec<u8> {
        format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .into_bytes()
    }
}

/// A request, as the server saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedRequest {
    /// Method, target and version.
    pub line: String,
    /// The headers, names in lower case; several of one name are joined with commas.
    pub headers: BTreeMap<String, String>,
    /// The body, where its length was announced.
    pub body: Vec<u8>,
}

/// A server on a free port; it ends with its connections when it is dropped.
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
    released: EventLog<()>,
    streams: Mutex<Vec<TcpStream>>,
    accepted: AtomicUsize,
    ended: AtomicBool,
}

impl FakeServer {
    /// Listens and gives every request this reply.
    pub fn start(reply: Reply) -> Self {
        Self::serve(TcpListener::bind("127.0.0.1:0").expect("listen"), reply)
    }

    fn serve(listener: TcpListener, reply: Reply) -> Self {
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            reply: Mutex::new(reply),
            requests: EventLog::default(),
            closed: EventLog::default(),
            released: EventLog::default(),
            streams: Mutex::default(),
            accepted: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let shared = Arc::clone(&accepting);
                // Under the lock, so that the end misses no connection.
                let mut streams = shared.streams.lock().unwrap();
                if shared.ended.load(Ordering::SeqCst) {
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

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From the next request on, this is the reply.
    pub fn reply(&self, reply: Reply) {
        *self.shared.reply.lock().unwrap() = reply;
    }

    /// Lets the [held](Reply::Delayed) answers go, now and from now on.
    pub fn release(&self) {
        self.shared.released.push(());
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<ReceivedRequest> {
        self.shared.requests.items()
    }

    /// Waits until there have been this many requests, and gives the last of them.
    pub fn wait_for_request(&self, number: usize) -> ReceivedRequest {
        let what = format!("request {number}");
        self.shared.requests.wait_for(&what, |requests| requests.get(number - 1).cloned())
    }

    /// How many connections were made to it.
    pub fn connections(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Waits until this many connections have ended.
    pub fn wait_for_end_of_connection(&self, number: usize) {
        self.shared
            .closed
            .wait_for("the end of a connection", |closed| (closed.len() >= number).then_some(()));
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        let streams = {
            let mut streams = self.shared.streams.lock().unwrap();
            self.shared.ended.store(true, Ordering::SeqCst);
            std::mem::take(&mut *streams)
        };
        for stream in streams {
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.shared.released.push(());
        // Wakes the thread that accepts, which then closes the listener.
        let _ = TcpStream::connect_timeout(&self.address, TEST_TIMEOUT);
    }
}

impl Shared {
    /// Answers the requests of one connection until the script or the peer ends it.
    fn handle_connection(&self, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(TEST_TIMEOUT))?;
        let mut out = stream.try_clone()?;
        let mut input = BufReader::new(stream);
        while let Some(received) = read_request(&mut input)? {
            let reply = self.reply.lock().unwrap().clone();
            self.requests.push(received);
            match reply {
                Reply::Json(status, body) => answer(&mut out, status, &body)?,
                Reply::Delayed(status, body) => {
                    self.released
                        .wait_for("the word to answer", |words| (!words.is_empty()).then_some(()));
                    answer(&mut out, status, &body)?;
                }
                Reply::Close(bytes) => {
                    out.write_all(&bytes)?;
                    return out.shutdown(Shutdown::Both);
                }
                Reply::Reset(bytes) => {
                    out.write_all(&bytes)?;
                    // Every handle has to go before the system sends the reset.
                    self.forget(&out)?;
                    return SockRef::from(&out).set_linger(Some(Duration::ZERO));
                }
                Reply::Stall(bytes) => {
                    out.write_all(&bytes)?;
                    return io::copy(&mut input, &mut io::sink()).map(drop);
                }
                Reply::SlowBody(bytes) => {
                    out.write_all(&bytes)?;
                    // Far more often than any read could time out, were it each read that is timed.
                    for _ in 0..TEST_TIMEOUT.as_millis() / 20 {
                        out.write_all(b"x")?;
                        thread::sleep(Duration::from_millis(20));
                    }
                }
                Reply::EndlessBody(bytes) => {
                    out.write_all(&bytes)?;
                    let flood = [b'x'; 64 * 1024];
                    // Bounded, so that a client that reads for ever fails its test and no more.
                    for _ in 0..64 * 1024 {
                        out.write_all(&flood)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn forget(&self, stream: &TcpStream) -> io::Result<()> {
        let peer = stream.peer_addr()?;
        let mut streams = self.streams.lock().unwrap();
        streams.retain(|other| other.peer_addr().is_ok_and(|other| other != peer));
        Ok(())
    }
}

fn answer(out: &mut impl Write, status: u16, body: &str) -> io::Result<()> {
    let length = body.len();
    write!(
        out,
        "HTTP/1.1 {status} Scripted\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

/// The next request; `None` where the peer has closed.
fn read_request(input: &mut impl BufRead) -> io::Result<Option<ReceivedRequest>> {
    let mut line = String::new();
    if input.take(1024 * 1024).read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut headers: BTreeMap<String, String> = BTreeMap::new();
    loop {
        let mut header = String::new();
        input.take(1024 * 1024).read_line(&mut header)?;
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

/// A port where nobody listens, and nobody else can: connections are refused.
#[derive(Debug)]
pub struct ReservedPort(Socket);

impl ReservedPort {
    /// Takes a free port.
    pub fn take() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("make a socket");
        socket.bind(&SocketAddr::from((own_loopback(), 0)).into()).expect("take a port");
        Self(socket)
    }

    /// Leaves it to a program that is told to listen there.
    pub fn leave(self) -> SocketAddr {
        self.address()
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap().as_socket().unwrap()
    }

    /// From now on this listens there.
    pub fn listen(self) -> TcpListener {
        self.0.listen(128).expect("listen");
        self.0.into()
    }

    /// From now on a server listens there.
    pub fn serve(self, reply: Reply) -> FakeServer {
        FakeServer::serve(self.listen(), reply)
    }
}

/// An address of this machine that no other test of the process uses, so that nobody takes the port
/// while it is nobody's. Where 127.0.0.0/8 is not all ours, the common one has to do.
fn own_loopback() -> [u8; 4] {
    static TAKEN: AtomicU8 = AtomicU8::new(0);
    if cfg!(target_os = "linux") {
        let [.., high, low] = std::process::id().to_be_bytes();
        [127, high | 0x80, low, TAKEN.fetch_add(1, Ordering::Relaxed)]
    } else {
        [127, 0, 0, 1]
    }
}

/// A listener that accepts nobody and whose queue is full, so that a connection to it is neither
/// made nor refused. The sockets hold it that way.
#[cfg(target_os = "linux")]
pub fn listener_with_full_backlog() -> (SocketAddr, Vec<Socket>) {
    let ReservedPort(listener) = ReservedPort::take();
    listener.listen(0).expect("listen");
    let address = listener.local_addr().unwrap();
    let mut sockets = vec![listener];
    loop {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let connected = socket.connect_timeout(&address, Duration::from_millis(200));
        sockets.push(socket);
        if connected.is_err() {
            return (address.as_socket().unwrap(), sockets);
        }
        assert!(sockets.len() < 16, "the queue does not fill");
    }
}
