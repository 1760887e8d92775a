//! An OTLP receiver in a process of its own: the lab's Jaeger, which decodes and keeps what it is sent.

use embedded_jaeger::JaegerConfig;

use crate::{Result, bare};

/// Receives until the process is told to stop; says where in the words of our services' first log line.
pub(crate) fn serve() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let jaeger = embedded_jaeger::start(JaegerConfig::with_ephemeral_ports()).await?;
        println!("address={}", jaeger.otlp_grpc_addr());
        bare::terminated().await;
        jaeger.stop().await;
        Ok(())
    })
}
