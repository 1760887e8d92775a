//! OTLP receiver: the lab's embedded Jaeger in a separate process.

use anyhow::Result;
use embedded_jaeger::JaegerConfig;

use crate::baseline::{log_listening, terminated};

/// Receives spans until SIGTERM.
#[tokio::main(flavor = "current_thread")]
pub(crate) async fn serve() -> Result<()> {
    let jaeger = embedded_jaeger::start(JaegerConfig::with_ephemeral_ports()).await?;
    log_listening(jaeger.otlp_grpc_addr());
    terminated().await;
    jaeger.stop().await;
    Ok(())
}
