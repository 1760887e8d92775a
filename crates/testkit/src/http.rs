//! An HTTP/1.1 client for tests: it shows all of an answer, and sends what no other client would.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::TEST_TIMEOUT;

/// An answer, to its last byte.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// The headers in their order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, decoded where it came in chunks.
    pub body: Vec<u8>,
    /// From just before the connection was opened to the end of the body.
    pub elapsed: Duration,
}

impl Response {
    /// The value of a header.
    ///
    /// # Panics
    /// Where it is there more than once.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str());
        let value = values.next();
        assert_eq!(values.next(), None, "{name} twice");
        value
    }

    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a body in UTF-8")
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("a body in JSON")
    }

    /// The trace id that the answer names.
    pub fn trace_id(&self) -> &str {
        let id = self.header("x-trace-id").expect("x-trace-id");
        let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        assert!(id.len() == 32 && id.bytes().all(is_hex) && id != "0".repeat(32), "{id}");
        id
    }
}

/// A request in the making.
#[derive(Debug, Clone)]
pub struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    /// `method` and `target` go on the wire as they are.
    pub fn new(method: &str, target: &str) -> Self {
        let (method, target) = (method.to_owned(), target.to_owned());
        Self { method, target, headers: Vec::new(), body: Vec::new() }
    }

    /// One more header, as it is.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// The bytes of it.
    pub fn bytes(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\nHost: test\r\n", self.method, self.target);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !self.body.is_empty() {
            head.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        }
        head.push_str("\r\n");
        [head.as_bytes(), &self.body].concat()
    }

    /// Sends it over a connection of its own.
    ///
    /// # Panics
    /// Where there is no whole answer.
    pub fn send(&self, to: SocketAddr) -> Response {
        let mut connection = Connection::open(to);
        connection.send(&self.bytes());
        connection.answer_to(&self.method).unwrap_or_else(|error| panic!("{self:?}: {error}"))
    }
}

/// `GET target` over a connection of its own.
pub fn get(from: SocketAddr, target: &str) -> Response {
    Request::new("GET", target).send(from)
}

/// A connection, for more than one request or less than one.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
    opened: Instant,
}

impl Connection {
    /// Connects; nothing is sent.
    pub fn open(to: SocketAddr) -> Self {
        let opened = Instant::now();
        let stream = TcpStream::connect_timeout(&to, TEST_TIMEOUT).expect("connect");
        stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
        stream.set_write_timeout(Some(TEST_TIMEOUT)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream: BufReader::new(stream), opened }
    }

    /// Sends bytes, or as many as the other side takes before it closes.
    pub fn send(&mut self, bytes: &[u8]) {
        // A server may refuse a request before it has read all of it.
        let _ = self.stream.get_mut().write_all(bytes);
    }

    /// Says that nothing more will be sent.
    pub fn finish_sending(&mut self) {
        let _ = self.stream.get_mut().shutdown(Shutdown::Write);
    }

    /// Reads the answer to a request that was not HEAD.
    ///
    /// # Errors
    /// Where the connection breaks off before the answer is whole, or what comes is no HTTP.
    pub fn answer(&mut self) -> io::Result<Response> {
        self.answer_to("GET")
    }

    /// Reads the answer to a request of this method.
    ///
    /// # Errors
    /// As [`answer`](Self::answer).
    pub fn answer_to(&mut self, method: &str) -> io::Result<Response> {
        let line = self.line()?;
        let status = line
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3)?.parse().ok())
            .ok_or_else(|| bad(&line))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| bad(&line))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let header = |name: &str| {
            headers.iter().find(|(n, _)| n == name).map(|(_, value): &(_, String)| value.clone())
        };
        let mut body = Vec::new();
        if method == "HEAD" || status == 204 || status == 304 {
            // What the headers announce does not come.
        } else if header("transfer-encoding").is_some_and(|value| value == "chunked") {
            self.chunks(&mut body)?;
        } else if let Some(length) = header("content-length") {
            let length = length.parse().map_err(|_| bad(&length))?;
            body.resize(length, 0);
            self.stream.read_exact(&mut body)?;
        } else {
            self.stream.read_to_end(&mut body)?;
        }
        Ok(Response { status, headers, body, elapsed: self.opened.elapsed() })
    }

    /// Waits until the other side closes, and gives what came before that.
    ///
    /// # Errors
    /// Where it closes by a reset.
    pub fn read_to_end(&mut self) -> io::Result<Vec<u8>> {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).map(|_| rest)
    }

    fn chunks(&mut self, body: &mut Vec<u8>) -> io::Result<()> {
        loop {
            let line = self.line()?;
            let length = usize::from_str_radix(&line, 16).map_err(|_| bad(&line))?;
            let start = body.len();
            body.resize(start + length, 0);
            self.stream.read_exact(&mut body[start..])?;
            if !self.line()?.is_empty() {
                return Err(bad("a chunk longer than it said"));
            }
            if length == 0 {
                return Ok(());
            }
        }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        match line.strip_suffix("\r\n") {
            Some(line) => Ok(line.to_owned()),
            None => {
                Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("broke off: {line:?}")))
            }
        }
    }
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not HTTP: {what:?}"))
}
