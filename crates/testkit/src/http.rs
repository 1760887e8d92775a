//! Raw HTTP/1.1 client. It exposes the complete response and sends requests that other clients refuse to
//! send.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::wait::TEST_TIMEOUT;

/// Complete HTTP response.
#[derive(Debug, Clone)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Headers in the order received, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Body, without chunked encoding.
    pub body: Vec<u8>,
    /// Time from just before the connection was opened until the end of the body.
    pub elapsed: Duration,
}

impl Response {
    /// Returns the value of a header.
    ///
    /// # Panics
    /// If the header occurs more than once.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str());
        let value = values.next();
        assert_eq!(values.next(), None, "duplicate header {name}");
        value
    }

    /// Returns the body as text.
    ///
    /// # Panics
    /// If the body is not valid UTF-8.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a UTF-8 body")
    }

    /// Returns the body as JSON.
    ///
    /// # Panics
    /// If the body is not valid JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }

    /// Returns the trace id from the header `x-trace-id`.
    ///
    /// # Panics
    /// If the header is missing or its value is not a valid trace id.
    pub fn trace_id(&self) -> &str {
        let id = self.header("x-trace-id").expect("header x-trace-id");
        let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        assert!(id.len() == 32 && id.bytes().all(is_hex) && id != "0".repeat(32), "{id}");
        id
    }
}

/// HTTP request, sent without validation.
#[derive(Debug, Clone)]
pub struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    /// Creates a request without a body.
    pub fn new(method: &str, target: &str) -> Self {
        let (method, target) = (method.to_owned(), target.to_owned());
        Self { method, target, headers: Vec::new(), body: Vec::new() }
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets the body. A non-empty body is sent with a `Content-Length` header.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Returns the request as it is sent.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{} {} HTTP/1.1\r\nHost: test\r\n", self.method, self.target);
        for (name, value) in &self.headers {
            bytes.push_str(&format!("{name}: {value}\r\n"));
        }
        if !self.body.is_empty() {
            bytes.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        }
        bytes.push_str("\r\n");
        [bytes.as_bytes(), &self.body].concat()
    }

    /// Sends the request on a new connection and returns the connection without waiting for the response.
    pub fn start(&self, address: SocketAddr) -> Connection {
        let mut connection = Connection::open(address);
        connection.send(&self.to_bytes());
        connection
    }

    /// Sends the request on a new connection and reads the response.
    ///
    /// # Panics
    /// If there is no complete response.
    pub fn send(&self, address: SocketAddr) -> Response {
        let mut connection = self.start(address);
        connection.response_to(&self.method).unwrap_or_else(|error| panic!("{self:?}: {error}"))
    }
}

/// Sends a `GET` request on a new connection and reads the response.
///
/// # Panics
/// If there is no complete response.
pub fn get(address: SocketAddr, target: &str) -> Response {
    Request::new("GET", target).send(address)
}

/// Client connection for any sequence of complete or partial requests.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
    opened: Instant,
}

impl Connection {
    /// Connects to a server without sending anything.
    ///
    /// # Panics
    /// If the connection cannot be established.
    pub fn open(address: SocketAddr) -> Self {
        let opened = Instant::now();
        let stream = TcpStream::connect_timeout(&address, TEST_TIMEOUT).expect("connect");
        stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
        stream.set_write_timeout(Some(TEST_TIMEOUT)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream: BufReader::new(stream), opened }
    }

    /// Sends bytes. Write errors are ignored, because a server may respond and close the connection before
    /// it has read the whole request.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.try_send(bytes);
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// If the server closes the connection or stops reading for [`TEST_TIMEOUT`].
    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Shuts down the sending direction of the connection.
    pub fn shutdown_write(&mut self) {
        let _ = self.stream.get_mut().shutdown(Shutdown::Write);
    }

    /// Reads the response to a request other than `HEAD`.
    ///
    /// # Errors
    /// If the connection ends before the response is complete or the response is not valid HTTP.
    pub fn response(&mut self) -> io::Result<Response> {
        self.response_to("GET")
    }

    /// Reads the response to a request with this method.
    ///
    /// # Errors
    /// If the connection ends before the response is complete or the response is not valid HTTP.
    pub fn response_to(&mut self, method: &str) -> io::Result<Response> {
        let line = self.read_line()?;
        let status = line
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3)?.parse().ok())
            .ok_or_else(|| invalid_data(&line))?;
        let mut headers = Vec::new();
        loop {
            let line = self.read_line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| invalid_data(&line))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let header = |name: &str| {
            headers.iter().find(|(n, _)| n == name).map(|(_, value): &(_, String)| value.clone())
        };
        let mut body = Vec::new();
        if method == "HEAD" || status == 204 || status == 304 {
            // These responses have no body, even if the headers announce one.
        } else if header("transfer-encoding").is_some_and(|value| value == "chunked") {
            self.read_chunks(&mut body)?;
        } else if let Some(length) = header("content-length") {
            let length = length.parse().map_err(|_| invalid_data(&length))?;
            body.resize(length, 0);
            self.stream.read_exact(&mut body)?;
        } else {
            self.stream.read_to_end(&mut body)?;
        }
        Ok(Response { status, headers, body, elapsed: self.opened.elapsed() })
    }

    /// Reads until the server closes the connection.
    ///
    /// # Errors
    /// If the server resets the connection.
    pub fn read_to_end(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.stream.read_to_end(&mut bytes).map(|_| bytes)
    }

    /// Reads until `text` has arrived.
    ///
    /// # Errors
    /// If the server closes the connection first.
    pub fn read_until(&mut self, text: &[u8]) -> io::Result<()> {
        let mut received = Vec::new();
        while !received.ends_with(text) {
            let mut byte = [0];
            self.stream.read_exact(&mut byte)?;
            received.extend(byte);
        }
        Ok(())
    }

    fn read_chunks(&mut self, body: &mut Vec<u8>) -> io::Result<()> {
        loop {
            let line = self.read_line()?;
            let length = usize::from_str_radix(&line, 16).map_err(|_| invalid_data(&line))?;
            let start = body.len();
            body.resize(start + length, 0);
            self.stream.read_exact(&mut body[start..])?;
            if !self.read_line()?.is_empty() {
                return Err(invalid_data("chunk exceeds its announced length"));
            }
            if length == 0 {
                return Ok(());
            }
        }
    }

    fn read_line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        line.strip_suffix("\r\n").map(str::to_owned).ok_or_else(|| {
            io::Error::new(io::ErrorKind::UnexpectedEof, format!("incomplete line: {line:?}"))
        })
    }
}

fn invalid_data(data: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("invalid HTTP: {data:?}"))
}
