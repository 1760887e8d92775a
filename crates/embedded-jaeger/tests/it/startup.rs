//! Starting, stopping, and addresses that are taken.

use std::net::TcpListener;

use embedded_jaeger::{JaegerConfig, Limits, Listener};

use crate::jaeger::{Jaeger, any_ports};

#[tokio::test]
async fn default_ports_are_loopback() {
    let settings = JaegerConfig::default();
    let addrs = [settings.otlp_grpc, settings.otlp_http, settings.ui].map(|addr| addr.to_string());
    assert_eq!(addrs, ["127.0.0.1:4317", "127.0.0.1:4318", "127.0.0.1:16686"]);
}

#[tokio::test]
async fn port_in_use_names_listener() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap();
    for listener in [Listener::OtlpGrpc, Listener::OtlpHttp, Listener::Ui] {
        let mut settings = any_ports(Limits::default());
        match listener {
            Listener::OtlpGrpc => settings.otlp_grpc = addr,
            Listener::OtlpHttp => settings.otlp_http = addr,
            Listener::Ui => settings.ui = addr,
        }
        let error = embedded_jaeger::start(settings).await.unwrap_err();
        assert_eq!((error.listener, error.addr), (listener, addr));
        let message = error.to_string();
        assert!(message.contains(&addr.to_string()), "{message}");
        assert!(message.contains(&listener.to_string()), "{message}");
    }
}

#[tokio::test]
async fn stop_releases_ports() {
    let jaeger = Jaeger::start().await;
    // Both keep their connections open.
    let _grpc = jaeger.grpc().await;
    jaeger.data("/api/services").await;
    let Jaeger { running, http: _http } = jaeger;
    let addrs = [running.otlp_grpc_addr(), running.otlp_http_addr(), running.ui_addr()];
    running.stop().await;
    for addr in addrs {
        let refused = std::net::TcpStream::connect(addr).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "{addr}");
    }
}
