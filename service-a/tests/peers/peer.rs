//! Processes of the collector and of Jaeger.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::{Value, json};
use testkit::otlp::Protocol;
use testkit::{Process, ProcessBuilder, ReservedPort, wait_until};

pub(crate) const PROTOCOLS: [Protocol; 2] = [Protocol::Grpc, Protocol::HttpProtobuf];

/// Collector, or Jaeger, which is a distribution of it. The addresses stay the same after a restart.
pub(crate) struct Peer {
    program: String,
    folder: PathBuf,
    pub(crate) config: Value,
    pub(crate) grpc: SocketAddr,
    http: SocketAddr,
    process: Option<Process>,
}

impl Peer {
    /// Creates a peer without starting it. `name` is unique among the tests.
    pub(crate) fn new(variable: &str, name: &str, exporter: Value) -> Self {
        let program = std::env::var(variable).unwrap_or_else(|_| panic!("run .ci/peers"));
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("peers").join(name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        let [grpc, http] = [(); 2].map(|()| ReservedPort::bind().release());
        let config = json!({
            "receivers": { "otlp": { "protocols": {
                "grpc": { "endpoint": grpc.to_string() },
                "http": { "endpoint": http.to_string() },
            } } },
            "exporters": exporter,
            "service": {
                "pipelines": { "traces": {
                    "receivers": ["otlp"],
                    "exporters": exporter.as_object().unwrap().keys().collect::<Vec<_>>(),
                } },
                "telemetry": { "metrics": { "level": "none" } },
            },
        });
        Self { program, folder, config, grpc, http, process: None }
    }

    /// Creates a collector that writes all telemetry to a file.
    pub(crate) fn collector(name: &str) -> Self {
        let mut peer = Self::new("COLLECTOR", name, json!({ "file": { "append": true } }));
        peer.config["exporters"]["file"]["path"] = json!(peer.folder.join("received"));
        peer
    }

    pub(crate) fn start(&mut self) -> &mut Self {
        let config = self.folder.join("config.json");
        fs::write(&config, self.config.to_string()).unwrap();
        let process = ProcessBuilder::new(&self.program)
            .arg("--config")
            .arg(config)
            .env("OTEL_TRACES_SAMPLER", "always_off") // Jaeger traces the requests to its API.
            .start();
        self.process = Some(process);
        self.wait_for_log_text("Everything is ready");
        self
    }

    /// Stops the peer. It writes the spans that it has accepted first.
    pub(crate) fn stop(&mut self) {
        assert_eq!(self.process.take().unwrap().stop().code, Some(0));
    }

    pub(crate) fn process(&self) -> &Process {
        self.process.as_ref().unwrap()
    }

    pub(crate) fn wait_for_log_text(&self, text: &str) {
        wait_until(text, || self.process().stderr().iter().any(|line| line.contains(text)));
    }

    /// Returns the complete lines of the collector's file, each of which is an export or a scrape.
    pub(crate) fn received(&self) -> Value {
        let text = fs::read_to_string(self.folder.join("received")).unwrap_or_default();
        let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        lines.map(|line| serde_json::from_str::<Value>(line).unwrap()).collect()
    }

    /// Returns the number of spans in the collector's file.
    ///
    /// # Panics
    /// If a span occurs twice.
    pub(crate) fn span_count(&self) -> usize {
        let received = self.received();
        let ids = find_all(&received, "spanId");
        assert_eq!(BTreeSet::from_iter(ids.iter().map(|id| id.as_str())).len(), ids.len());
        ids.len()
    }

    /// Returns a builder of service A that exports its spans to this peer.
    pub(crate) fn exporter(&self, protocol: Protocol) -> ProcessBuilder {
        let address = if protocol == Protocol::Grpc { self.grpc } else { self.http };
        ProcessBuilder::new(env!("CARGO_BIN_EXE_service-a"))
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{address}"))
            .env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol.name())
            .env("OTEL_BSP_SCHEDULE_DELAY", "10")
    }

    /// Returns the exit codes of `--check-telemetry` over both protocols.
    pub(crate) fn check_telemetry(&self) -> [Option<i32>; 2] {
        PROTOCOLS.map(|one| self.exporter(one).arg("--check-telemetry").run_to_exit().code)
    }
}

/// Returns the values of a key at any depth.
pub(crate) fn find_all<'a>(value: &'a Value, key: &str) -> Vec<&'a Value> {
    match value {
        Value::Array(items) => items.iter().flat_map(|item| find_all(item, key)).collect(),
        Value::Object(map) => {
            let below = map.values().flat_map(|value| find_all(value, key));
            map.get(key).into_iter().chain(below).collect()
        }
        _ => Vec::new(),
    }
}
