//! An OTLP receiver in a process of its own: decodes what it is sent, counts it, keeps nothing.

use std::net::SocketAddr;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::Result;

struct Receiver;

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> std::result::Result<Response<ExportTraceServiceResponse>, Status> {
        drop(request);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// Receives until the process is ended.
pub(crate) fn serve() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        println!("address={}", listener.local_addr()?);
        let service = TraceServiceServer::new(Receiver).max_decoding_message_size(64 << 20);
        let incoming = TcpIncoming::from(listener);
        Ok(Server::builder().add_service(service).serve_with_incoming(incoming).await?)
    })
}
