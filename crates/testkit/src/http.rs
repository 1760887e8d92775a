//! Raw HTTP/1.1 client. It exposes the complete response and sends requests that other clients refuse to
//! send.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::wait::TEST_TIMEOUT;

/// Headers of a message, names in lower case. Values of repeated headers are joined with commas.
pub type Headers = BTreeMap<String, String>;

/// Complete HTTP response.
#[derive(Debug, Clone)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Headers.
    pub headers: Headers,
    /// Body, without chunked encoding.
    pub body: Vec<u8>,
    /// Time from just before the connection was opened until the end of the body.
    pub elapsed: Duration,
}

impl Response {
    /// Returns the value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
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
    /// Request line and headers.
    start: String,
    body: Vec<u8>,
}

impl Request {
    /// Creates a request without a body.
    pub fn new(method: &str, target: &str) -> Self {
        let start = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n");
        Self { start, body: Vec::new() }
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.start.push_str(&format!("{name}: {value}\r\n"));
        self
    }

    /// Sets the body and adds a `Content-Length` header.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        let length = self.body.len().to_string();
        self.header("Content-Length", &length)
    }

    /// Returns the request as it is sent.
    pub fn to_bytes(&self) -> Vec<u8> {
        [self.start.as_bytes(), b"\r\n", &self.body].concat()
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
        let has_body = !self.start.starts_with("HEAD ");
        let response = self.start(address).read_response(has_body);
        response.unwrap_or_else(|error| panic!("{self:?}: {error}"))
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
        self.read_response(true)
    }

    fn read_response(&mut self, has_body: bool) -> io::Result<Response> {
        let (line, headers) = read_headers(&mut self.stream)?;
        let status = line
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3)?.parse().ok())
            .ok_or_else(|| invalid_data(&line))?;
        let body = if has_body { read_body(&mut self.stream, &headers)? } else { Vec::new() };
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
}

/// Reads the first line and the headers of a message.
pub(crate) fn read_headers(input: &mut impl BufRead) -> io::Result<(String, Headers)> {
    let first_line = read_line(input)?;
    let mut headers = Headers::new();
    loop {
        let line = read_line(input)?;
        if line.is_empty() {
            return Ok((first_line, headers));
        }
        let (name, value) = line.split_once(':').ok_or_else(|| invalid_data(&line))?;
        let values = headers.entry(name.to_ascii_lowercase()).or_default();
        if !values.is_empty() {
            values.push(',');
        }
        values.push_str(value.trim());
    }
}

/// Reads the body of a message with these headers.
pub(crate) fn read_body(input: &mut impl BufRead, headers: &Headers) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    if let Some(length) = headers.get("content-length") {
        body.resize(length.parse().map_err(|_| invalid_data(length))?, 0);
        input.read_exact(&mut body)?;
    } else if headers.get("transfer-encoding").is_some_and(|value| value == "chunked") {
        loop {
            let line = read_line(input)?;
            let length = usize::from_str_radix(&line, 16).map_err(|_| invalid_data(&line))?;
            let start = body.len();
            body.resize(start + length, 0);
            input.read_exact(&mut body[start..])?;
            if !read_line(input)?.is_empty() {
                return Err(invalid_data("chunk exceeds its announced length"));
            }
            if length == 0 {
                break;
            }
        }
    }
    Ok(body)
}

fn read_line(input: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    input.read_line(&mut line)?;
    line.strip_suffix("\r\n").map(str::to_owned).ok_or_else(|| {
        io::Error::new(io::ErrorKind::UnexpectedEof, format!("incomplete line: {line:?}"))
    })
}

fn invalid_data(data: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("invalid HTTP: {data:?}"))
}
