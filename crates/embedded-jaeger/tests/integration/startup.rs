//! Startup and shutdown.

use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};

use embedded_jaeger::JaegerConfig;

use crate::jaeger::Jaeger;

#[tokio::test]
async fn default_ports_are_loopback() {
    let config = JaegerConfig::default();
    let addrs = [config.otlp_grpc, config.otlp_http, config.ui].map(|addr| addr.to_string());
    assert_eq!(addrs, ["127.0.0.1:4317", "127.0.0.1:4318", "127.0.0.1:16686"]);
}

#[tokio::test]
async fn port_in_use_names_listener() {
    let occupied = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = occupied.local_addr().unwrap();
    let config = JaegerConfig::with_ephemeral_ports();
    for (listener, config) in [
        ("OTLP/gRPC", JaegerConfig { otlp_grpc: addr, ..config.clone() }),
        ("OTLP/HTTP", JaegerConfig { otlp_http: addr, ..config.clone() }),
        ("the Jaeger UI", JaegerConfig { ui: addr, ..config }),
    ] {
        let error = embedded_jaeger::start(config).await.unwrap_err();
        assert_eq!((error.listener, error.addr), (listener, addr));
        let message = error.to_string();
        assert!(message.contains(&addr.to_string()), "{message}");
        assert!(message.contains(listener), "{message}");
    }
}

/// A page whose name resolves to a loopback address reads nothing.
#[tokio::test]
async fn foreign_host_is_rejected() {
    let jaeger = Jaeger::start().await;
    let addrs = [jaeger.handle.ui_addr(), jaeger.handle.otlp_http_addr()];
    for (host, status) in [("rebound.test", 403), ("localhost:1", 200), ("127.0.0.1", 200)] {
        for (addr, path) in addrs.into_iter().zip(["/api/services", "/v1/traces"]) {
            let request = jaeger.http.get(format!("http://{addr}{path}")).header("host", host);
            let allowed = if path == "/v1/traces" { 405 } else { 200 };
            let expected = if status == 200 { allowed } else { status };
            assert_eq!(request.send().await.unwrap().status(), expected, "{host} {path}");
        }
    }
}

/// Ports are released although clients keep their connections open.
#[tokio::test]
async fn stop_releases_ports() {
    let jaeger = Jaeger::start().await;
    let _grpc = jaeger.grpc().await;
    jaeger.data("/api/services").await;
    let Jaeger { handle, http: _http } = jaeger;
    let addrs = [handle.otlp_grpc_addr(), handle.otlp_http_addr(), handle.ui_addr()];
    handle.stop().await;
    for addr in addrs {
        let error = TcpStream::connect(addr).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{addr}");
    }
}
