//! A real Jaeger, with which the embedded one is compared.

use std::net::SocketAddr;

use serde_json::json;

use crate::process::{Process, ProcessBuilder};
use crate::reserved_port::ReservedPort;
use crate::wait::wait_until;

/// A real Jaeger that keeps its traces in memory.
#[derive(Debug)]
pub struct RealJaeger {
    /// The process, which ends when this value is dropped.
    pub process: Process,
    /// Address at which it receives spans over gRPC.
    pub otlp_grpc: SocketAddr,
    /// Address at which it receives spans over http/protobuf.
    pub otlp_http: SocketAddr,
    /// Address of the UI and its query API.
    pub ui: SocketAddr,
}

impl RealJaeger {
    /// Starts `program`, whose path `.ci/go-backend jaeger` prints, and waits until it is ready. `processors`
    /// are those of its pipeline, such as `batch`.
    pub fn start(program: &str, max_traces: u32, processors: &[&str]) -> Self {
        let addresses = [(); 4].map(|()| ReservedPort::bind().release());
        let [otlp_grpc, otlp_http, ui, query_grpc] = addresses;
        let config = json!({
            "receivers": { "otlp": { "protocols": {
                "grpc": { "endpoint": otlp_grpc.to_string() },
                "http": { "endpoint": otlp_http.to_string() },
            } } },
            "processors": { "batch": {} },
            "exporters": { "jaeger_storage_exporter": { "trace_storage": "memory" } },
            "extensions": {
                "jaeger_storage": { "backends": { "memory": { "memory": { "max_traces": max_traces } } } },
                "jaeger_query": {
                    "storage": { "traces": "memory" },
                    "http": { "endpoint": ui.to_string() },
                    "grpc": { "endpoint": query_grpc.to_string() },
                },
            },
            "service": {
                "extensions": ["jaeger_storage", "jaeger_query"],
                "pipelines": { "traces": {
                    "receivers": ["otlp"],
                    "processors": processors,
                    "exporters": ["jaeger_storage_exporter"],
                } },
                "telemetry": { "metrics": { "level": "none" } },
            },
        });
        let process = ProcessBuilder::new(program)
            .args(["--config", "env:CONFIG"])
            .env("CONFIG", config.to_string())
            .env("OTEL_TRACES_SAMPLER", "always_off") // Jaeger traces the requests to its API.
            .start();
        let is_ready = |line: &String| line.contains("Everything is ready");
        wait_until("Jaeger is ready", || process.stderr().iter().any(is_ready));
        Self { process, otlp_grpc, otlp_http, ui }
    }
}
