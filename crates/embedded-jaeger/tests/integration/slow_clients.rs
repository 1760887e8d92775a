//! Clients that do not complete their requests.

use std::io::ErrorKind;
use std::time::Duration;

use embedded_jaeger::JaegerConfig;
use reqwest::Client;
use testkit::http::Connection;

/// Preface, SETTINGS, and a part of HEADERS.
const HTTP2: &[u8] =
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x09\x01\x05\0\0\0\x01\x82";

#[tokio::test(flavor = "multi_thread")]
async fn incomplete_requests_are_closed() {
    let request_timeout = Duration::from_millis(300);
    let config = JaegerConfig { request_timeout, ..JaegerConfig::with_ephemeral_ports() };
    let jaeger = embedded_jaeger::start(config).await.unwrap();
    let (first, second) =
        (&b"GET / HTTP/1.1\r\nHost: local"[..], b"host\r\n\r\nGET / HTTP/1.1\r\n");
    let pipelined = [first, second].concat();
    let starts = [&b""[..], b"P", b"PRI * HTTP/2.0\r\n", HTTP2, first, &pipelined];
    let mut connections = Vec::new();
    for address in [jaeger.otlp_grpc_addr(), jaeger.otlp_http_addr(), jaeger.ui_addr()] {
        for start in starts.repeat(10) {
            let mut connection = Connection::open(address);
            connection.send(start);
            connections.push(connection);
        }
    }
    let url = format!("http://{}/api/services", jaeger.ui_addr());
    assert_eq!(Client::new().get(url).send().await.unwrap().status(), 200);
    for connection in &mut connections {
        if let Err(error) = connection.read_to_end() {
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn incomplete_body_returns_408() {
    let request_timeout = Duration::from_millis(300);
    let config = JaegerConfig { request_timeout, ..JaegerConfig::with_ephemeral_ports() };
    let jaeger = embedded_jaeger::start(config).await.unwrap();
    for (address, path) in
        [(jaeger.otlp_http_addr(), "/v1/traces"), (jaeger.ui_addr(), "/api/transform")]
    {
        let mut connection = Connection::open(address);
        let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n");
        connection.send(format!("{head}Content-Type: application/json\r\n\r\n{{").as_bytes());
        assert_eq!(connection.response().unwrap().status, 408, "{path}");
    }
}
