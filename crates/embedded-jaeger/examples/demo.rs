//! Jaeger on free ports with the traces of one successful and one failed request.
//!
//! Prints the URL of the UI and runs until standard input reaches its end.

#[path = "../tests/integration/support.rs"]
#[allow(dead_code)]
mod support;

use std::error::Error;
use std::io::Read as _;

use embedded_jaeger::JaegerConfig;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use support::{call_echo, now_ns, request};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let jaeger = embedded_jaeger::start(JaegerConfig::with_ephemeral_ports()).await?;
    let mut client =
        TraceServiceClient::connect(format!("http://{}", jaeger.otlp_grpc_addr())).await?;
    for (trace, failed) in [(1, false), (2, true)] {
        client.export(request(call_echo(trace, now_ns(), failed))).await?;
    }
    println!("http://{}", jaeger.ui_addr());
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    jaeger.stop().await;
    Ok(())
}
