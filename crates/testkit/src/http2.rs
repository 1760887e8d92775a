//! HTTP/2 client that exposes how a response ends.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Method, Request};
use tokio::net::TcpStream;

use crate::wait::TEST_TIMEOUT;

/// End of what a client received for one request over HTTP/2.
#[derive(Debug, Default)]
pub struct Received {
    /// Status and headers, unless the server reset the stream first.
    pub head: Option<http::Response<()>>,
    /// Data frames.
    pub body: Vec<u8>,
    /// Trailers.
    pub trailers: Option<HeaderMap>,
    /// Text of the error that ended the stream, such as a reset by the server.
    pub error: Option<String>,
}

/// Sends a request without a body on a new connection, and reads the response to its end.
///
/// With `until`, the client disconnects once the body ends with these bytes. Empty bytes disconnect before
/// the response.
///
/// # Panics
/// If the connection cannot be established, or the response takes longer than [`TEST_TIMEOUT`].
pub fn exchange(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    until: Option<&[u8]>,
) -> Received {
    let method = Method::from_bytes(method.as_bytes()).expect("a method");
    let mut request = Request::builder().method(method).uri(format!("http://test{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(()).expect("a valid request");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let exchange = async {
            let (mut client, mut ping) = connect(address).await;
            let mut received = Received::default();
            if until.is_some_and(<[u8]>::is_empty) {
                let _response = client.send_request(request, true).expect("a stream");
                // The server has read the request once it responds to a ping that follows it.
                ping.ping(h2::Ping::opaque()).await.expect("a pong");
            } else if let Err(error) = receive(&mut received, &mut client, request, until).await {
                received.error = Some(error.to_string());
            }
            received
        };
        tokio::time::timeout(TEST_TIMEOUT, exchange).await.expect("a response in time")
    })
}

/// Opens a connection. It ends with the runtime.
///
/// # Panics
/// If the connection cannot be established.
pub async fn connect(address: SocketAddr) -> (SendRequest<Bytes>, h2::PingPong) {
    let stream = TcpStream::connect(address).await.expect("connect");
    let (client, mut connection) = h2::client::handshake(stream).await.expect("handshake");
    let ping = connection.ping_pong().expect("the first handle for pings");
    tokio::spawn(connection);
    (client.ready().await.expect("ready"), ping)
}

async fn receive(
    received: &mut Received,
    client: &mut SendRequest<Bytes>,
    request: Request<()>,
    until: Option<&[u8]>,
) -> Result<(), h2::Error> {
    let (response, _) = client.send_request(request, true)?;
    let (parts, mut body) = response.await?.into_parts();
    received.head = Some(http::Response::from_parts(parts, ()));
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        received.body.extend(data);
        if until.is_some_and(|until| received.body.ends_with(until)) {
            return Ok(());
        }
    }
    received.trailers = body.trailers().await?;
    Ok(())
}
