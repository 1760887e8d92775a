//! Causes of a failed export.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use reqwest::Url;

use super::CONNECT_TIMEOUT;
use crate::config::Protocol;

const HTTP1_REQUEST: &[u8] = b"OPTIONS / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
/// Connection preface of HTTP/2 with empty SETTINGS (RFC 9113, section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// Type of an HTTP/2 frame SETTINGS, the fourth byte of the server's preface.
const SETTINGS: u8 = 4;
/// Content type and major version of a TLS alert.
const TLS_ALERT: &[u8] = &[0x15, 0x03];

/// Returns the name of a problem, and what to do.
pub(super) fn diagnose(
    details: &str,
    protocol: Protocol,
    url: &Url,
    address: SocketAddr,
) -> (&'static str, &'static str) {
    let has = |texts: &[&str]| texts.iter().any(|text| details.contains(text));
    if has(&["Unauthenticated", "PermissionDenied", "401 ", "403 "]) {
        return (
            "the backend refuses the credentials",
            "Correct OTEL_EXPORTER_OTLP_HEADERS, such as api-key=SECRET. Blanks in values are %20.",
        );
    }
    if has(&["certificate"]) {
        return (
            "the certificate of the backend is not trusted",
            "Name the file of its issuer in OTEL_EXPORTER_OTLP_CERTIFICATE. The host of the endpoint must be \
             in the certificate.",
        );
    }
    let http1 = first_bytes(address, HTTP1_REQUEST);
    let http2 = first_bytes(address, HTTP2_PREFACE);
    let speaks_http1 = http1.starts_with(b"HTTP/1");
    let speaks_http2 = http2.get(3) == Some(&SETTINGS);
    if url.scheme() == "https" {
        if speaks_http1 || speaks_http2 {
            return ("the port has no TLS", "Begin the endpoint with http:// instead of https://.");
        }
    } else if http1.starts_with(TLS_ALERT) || http2.starts_with(TLS_ALERT) {
        return ("the port expects TLS", "Begin the endpoint with https:// instead of http://.");
    } else if protocol == Protocol::HttpProtobuf && speaks_http2 && !speaks_http1 {
        return (
            "the port expects grpc",
            "Set OTEL_EXPORTER_OTLP_PROTOCOL=grpc, or use the port for http/protobuf, 4318 by default.",
        );
    } else if protocol == Protocol::Grpc
        && (has(&["grpc-status header missing"]) || speaks_http1 && !speaks_http2)
    {
        return (
            "the port expects http/protobuf",
            "Set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf, or use the port for grpc, 4317 by default.",
        );
    }
    if has(&["404 ", "Unimplemented"]) {
        return (
            "the path is wrong",
            "OTEL_EXPORTER_OTLP_ENDPOINT is a URL without /v1/traces. OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is \
             the whole URL.",
        );
    }
    ("the export failed", "Look for the reason in the log of the backend.")
}

/// Returns what a server sends first after `request`. Empty if it sends nothing.
fn first_bytes(address: SocketAddr, request: &[u8]) -> Vec<u8> {
    let mut response = vec![0; 64];
    let exchange = |response: &mut [u8]| {
        let mut stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
        stream.set_read_timeout(Some(CONNECT_TIMEOUT))?;
        stream.write_all(request)?;
        stream.read(response)
    };
    let length = exchange(&mut response).unwrap_or(0);
    response.truncate(length);
    response
}
