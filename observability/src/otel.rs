//! The `OTEL_*` variables: what they mean here.
//!
//! Source: OpenTelemetry specification, "Environment Variable Specification" and "OpenTelemetry
//! Protocol Exporter". As it asks, an unknown or malformed value is warned of and the default holds;
//! only an endpoint that is no URL and a certificate file that holds none are refused, since nothing
//! could ever be sent there.
//! What `OTEL_EXPORTER_OTLP_HEADERS` says is read by the exporters themselves.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::Sampler;

use crate::config::{Reader, ServiceInfo};
use crate::export::BatchConfig;

/// What the `OTEL_*` variables say.
#[derive(Debug, Clone)]
pub struct OtelConfig {
    /// `OTEL_SDK_DISABLED`: no spans are made; ids are still logged and passed on.
    pub disabled: bool,
    /// Where spans go; `None` where no endpoint is set or `OTEL_TRACES_EXPORTER` is `none`.
    pub otlp: Option<OtlpConfig>,
    /// `OTEL_TRACES_SAMPLER` and `OTEL_TRACES_SAMPLER_ARG`.
    pub sampler: Sampler,
    /// `OTEL_BSP_*`.
    pub batch: BatchConfig,
    /// `OTEL_SERVICE_NAME`.
    pub service_name: Option<String>,
    /// What was warned of while reading; logged once there is a log.
    pub warnings: Vec<String>,
}

/// Where and how spans are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtlpConfig {
    /// Full URL for this signal.
    pub endpoint: String,
    /// `OTEL_EXPORTER_OTLP_PROTOCOL`.
    pub protocol: Protocol,
    /// `OTEL_EXPORTER_OTLP_COMPRESSION`: whether exports are compressed.
    pub gzip: bool,
    /// What `OTEL_EXPORTER_OTLP_CERTIFICATE` names: the certificates, in PEM, that are trusted in
    /// place of the system's. Only where TLS is spoken.
    pub certificates: Option<Vec<u8>>,
}

/// An encoding and transport of OTLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// `grpc`
    Grpc,
    /// `http/protobuf`
    HttpProtobuf,
}

impl FromStr for Protocol {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "grpc" => Ok(Self::Grpc),
            "http/protobuf" => Ok(Self::HttpProtobuf),
            _ => Err("expected grpc or http/protobuf"),
        }
    }
}

impl OtelConfig {
    pub(crate) fn read(reader: &mut Reader) -> Self {
        let mut warnings = Vec::new();
        let disabled = match reader.text("OTEL_SDK_DISABLED") {
            Some(text) if text.eq_ignore_ascii_case("true") => true,
            Some(text) if !text.eq_ignore_ascii_case("false") => {
                warnings.push("OTEL_SDK_DISABLED: expected true or false, false holds".to_owned());
                false
            }
            _ => false,
        };
        let sampler = read_sampler(reader, &mut warnings);
        let batch = read_batch(reader, &mut warnings);
        let otlp = read_otlp(reader, &mut warnings);
        let service_name = reader.text("OTEL_SERVICE_NAME");
        Self { disabled, otlp, sampler, batch, service_name, warnings }
    }

    /// What the spans say about the process: name, version, and what `OTEL_RESOURCE_ATTRIBUTES` and
    /// the SDK add.
    pub(crate) fn resource(&self, service: &ServiceInfo) -> Resource {
        let detected = Resource::builder().build();
        let named = detected
            .get(&"service.name".into())
            .is_some_and(|name| !name.as_str().starts_with("unknown_service"));
        let name = match &self.service_name {
            Some(name) => Some(name.clone()),
            None if named => None,
            None => Some(service.name.to_owned()),
        };
        let mut builder = Resource::builder()
            .with_attribute(KeyValue::new("service.version", service.version))
            .with_attribute(KeyValue::new("process.pid", i64::from(std::process::id())));
        if let Some(name) = name {
            builder = builder.with_service_name(name);
        }
        builder.build()
    }
}

fn read_otlp(reader: &mut Reader, warnings: &mut Vec<String>) -> Option<OtlpConfig> {
    const EXPORTER: &str = "OTEL_TRACES_EXPORTER";
    match reader.text(EXPORTER).as_deref() {
        None | Some("otlp") => {}
        Some("none") => return None,
        Some(_) => warnings.push(format!("{EXPORTER}: expected otlp or none, otlp holds")),
    }
    let protocol = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"]
        .into_iter()
        .find_map(|variable| read_or_warn(reader, warnings, variable));
    let gzip = read_compression(reader, warnings);
    let of_signal = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
    let of_all = "OTEL_EXPORTER_OTLP_ENDPOINT";
    let (variable, endpoint) = match reader.text(of_signal) {
        Some(endpoint) => (of_signal, endpoint),
        None => (of_all, reader.text(of_all)?),
    };
    let mut url = match reqwest::Url::parse(&endpoint) {
        Ok(url) if url.has_host() && matches!(url.scheme(), "http" | "https") => url,
        _ => {
            reader.variable_problem(variable, "expected a URL such as http://127.0.0.1:4317");
            return None;
        }
    };
    if url.scheme() == "https" && cfg!(not(feature = "tls")) {
        reader.variable_problem(variable, "https needs a build with the feature `tls`");
        return None;
    }
    #[cfg(not(feature = "tls"))]
    let certificates = None;
    #[cfg(feature = "tls")]
    let certificates = if url.scheme() == "https" { read_certificates(reader) } else { None };
    let endpoint = if url.username().is_empty() && url.password().is_none() {
        endpoint
    } else {
        // Nothing below would use them, and much below would log them.
        warnings.push(format!(
            "{variable}: user and password are left out, credentials go in OTEL_EXPORTER_OTLP_HEADERS"
        ));
        let _ = url.set_username("");
        let _ = url.set_password(None);
        url.to_string()
    };
    // The specification's default is http/protobuf; 4317 is registered for OTLP over gRPC.
    let protocol = protocol.unwrap_or(match url.port() {
        Some(4317) => Protocol::Grpc,
        _ => Protocol::HttpProtobuf,
    });
    let endpoint = match protocol {
        Protocol::HttpProtobuf if variable == of_all => {
            format!("{}/v1/traces", endpoint.trim_end_matches('/'))
        }
        _ => endpoint,
    };
    Some(OtlpConfig { endpoint, protocol, gzip, certificates })
}

/// By the rule of `opentelemetry-otlp`, which reads them again for http/protobuf: of the two the first
/// that is known, in whatever case.
fn read_compression(reader: &mut Reader, warnings: &mut Vec<String>) -> bool {
    let mut gzip = None;
    for variable in ["OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION"] {
        match reader.text(variable).map(|text| text.to_ascii_lowercase()).as_deref() {
            None => {}
            Some("gzip") => gzip = gzip.or(Some(true)),
            Some("none") => gzip = gzip.or(Some(false)),
            Some(_) => {
                warnings.push(format!("{variable}: expected gzip or none; it counts for nothing"));
            }
        }
    }
    gzip.unwrap_or(false)
}

#[cfg(feature = "tls")]
fn read_certificates(reader: &mut Reader) -> Option<Vec<u8>> {
    let variables = ["OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE"];
    let (variable, path) =
        variables.into_iter().find_map(|variable| Some((variable, reader.text(variable)?)))?;
    let problem = match std::fs::read(path) {
        Ok(pem) => match trusted(&pem) {
            Ok(1..) => return Some(pem),
            Ok(_) => "expected a file with certificates in PEM".to_owned(),
            Err(error) => format!("expected certificates that can be trusted: {error}"),
        },
        Err(error) => format!("cannot be read: {error}"),
    };
    reader.variable_problem(variable, &problem);
    None
}

/// How many certificates there are; an error where one of them can't be used.
#[cfg(feature = "tls")]
fn trusted(pem: &[u8]) -> Result<usize, Box<dyn std::error::Error>> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;

    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        roots.add(certificate?)?;
    }
    Ok(roots.len())
}

fn read_sampler(reader: &mut Reader, warnings: &mut Vec<String>) -> Sampler {
    const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
    const ARG: &str = "OTEL_TRACES_SAMPLER_ARG";
    let mut ratio = |reader: &mut Reader| match reader.text(ARG).map(|text| text.parse()) {
        Some(Ok(ratio)) if (0.0..=1.0).contains(&ratio) => Sampler::TraceIdRatioBased(ratio),
        None => Sampler::TraceIdRatioBased(1.0),
        _ => {
            warnings.push(format!("{ARG}: expected a number from 0 to 1, 1 holds"));
            Sampler::TraceIdRatioBased(1.0)
        }
    };
    let parent_based = |root| Sampler::ParentBased(Box::new(root));
    match reader.text(SAMPLER).as_deref() {
        None | Some("parentbased_always_on") => parent_based(Sampler::AlwaysOn),
        Some("always_on") => Sampler::AlwaysOn,
        Some("always_off") => Sampler::AlwaysOff,
        Some("traceidratio") => ratio(reader),
        Some("parentbased_always_off") => parent_based(Sampler::AlwaysOff),
        Some("parentbased_traceidratio") => parent_based(ratio(reader)),
        Some(_) => {
            warnings.push(format!("{SAMPLER}: not a known sampler, parentbased_always_on holds"));
            parent_based(Sampler::AlwaysOn)
        }
    }
}

fn read_batch(reader: &mut Reader, warnings: &mut Vec<String>) -> BatchConfig {
    let default = BatchConfig::default();
    let mut number = |variable: &str, default: u64| {
        read_or_warn(reader, warnings, variable).filter(|&n: &u64| n > 0).unwrap_or(default)
    };
    let mut size = |variable, default: usize| {
        usize::try_from(number(variable, default as u64)).unwrap_or(default)
    };
    let max_queue_size = size("OTEL_BSP_MAX_QUEUE_SIZE", default.max_queue_size);
    let max_export_batch_size =
        size("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", default.max_export_batch_size).min(max_queue_size);
    let mut ms = |variable, default: Duration| {
        Duration::from_millis(number(
            variable,
            u64::try_from(default.as_millis()).unwrap_or(u64::MAX),
        ))
    };
    let schedule_delay = ms("OTEL_BSP_SCHEDULE_DELAY", default.schedule_delay);
    let bsp = ms("OTEL_BSP_EXPORT_TIMEOUT", default.export_timeout);
    let otlp = ms("OTEL_EXPORTER_OTLP_TIMEOUT", Duration::from_secs(10));
    let otlp = ms("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", otlp);
    BatchConfig {
        max_queue_size,
        max_export_batch_size,
        schedule_delay,
        export_timeout: bsp.min(otlp),
    }
}

fn read_or_warn<T: FromStr<Err: fmt::Display>>(
    reader: &mut Reader,
    warnings: &mut Vec<String>,
    variable: &str,
) -> Option<T> {
    match reader.text(variable)?.parse() {
        Ok(value) => Some(value),
        Err(problem) => {
            warnings.push(format!("{variable}: {problem}; the default holds"));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    const SERVICE: ServiceInfo = ServiceInfo {
        name: "service-t",
        log_label: "T",
        description: "",
        version: "1.0.0",
        revision: "unknown",
        listen_addr: "127.0.0.1:0",
    };

    fn read(pairs: &'static [(&str, &str)]) -> OtelConfig {
        let lookup =
            |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, v)| OsString::from(v));
        crate::config::Config::from_lookup(SERVICE, lookup).unwrap().otel
    }

    #[test]
    fn signal_compression_overrides_general() {
        const OF_TRACES: &str = "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION";
        const OF_ALL: &str = "OTEL_EXPORTER_OTLP_COMPRESSION";
        const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://h");
        let cases: [(&'static [(&str, &str)], bool); 5] = [
            (&[ENDPOINT], false),
            (&[ENDPOINT, (OF_ALL, "GZIP")], true),
            (&[ENDPOINT, (OF_TRACES, "gzip"), (OF_ALL, "none")], true),
            (&[ENDPOINT, (OF_TRACES, "none"), (OF_ALL, "gzip")], false),
            (&[ENDPOINT, (OF_TRACES, "brotli"), (OF_ALL, "gzip")], true),
        ];
        for (pairs, gzip) in cases {
            assert_eq!(read(pairs).otlp.unwrap().gzip, gzip, "{pairs:?}");
        }
    }

    #[test]
    fn export_requires_endpoint() {
        assert_eq!(read(&[]).otlp, None);
        let none =
            [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317"), ("OTEL_TRACES_EXPORTER", "none")];
        assert_eq!(read(Box::leak(Box::new(none))).otlp, None);
    }

    #[test]
    fn protocol_defaults_by_port() {
        let otlp = |pairs| read(pairs).otlp.unwrap();
        let (grpc, http) = (Protocol::Grpc, Protocol::HttpProtobuf);
        type Case = (&'static [(&'static str, &'static str)], Protocol, &'static str);
        let cases: [Case; 5] = [
            (&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317")], grpc, "http://c:4317"),
            (&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318/")], http, "http://c:4318/v1/traces"),
            (
                &[
                    ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:1"),
                    ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
                ],
                grpc,
                "http://c:1",
            ),
            (
                &[
                    ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c:1/own"),
                    ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://d:4317"),
                ],
                http,
                "http://c:1/own",
            ),
            (
                &[
                    ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:1"),
                    ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc"),
                    ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
                ],
                grpc,
                "http://c:1",
            ),
        ];
        for (pairs, protocol, endpoint) in cases {
            assert_eq!(
                otlp(pairs),
                OtlpConfig {
                    endpoint: endpoint.to_owned(),
                    protocol,
                    gzip: false,
                    certificates: None
                },
                "{pairs:?}"
            );
        }
    }

    #[test]
    fn endpoint_credentials_are_stripped() {
        let config = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://user:secret@c:4318")]);
        assert_eq!(config.otlp.unwrap().endpoint, "http://c:4318/v1/traces");
        assert_eq!(config.warnings.len(), 1);
        assert!(!config.warnings[0].contains("secret"), "{:?}", config.warnings);
    }

    #[test]
    fn invalid_endpoint_names_variable() {
        for endpoint in ["collector:4317", "not a url", "ftp://c"] {
            let lookup =
                move |name: &str| (name == "OTEL_EXPORTER_OTLP_ENDPOINT").then(|| endpoint.into());
            let error = crate::config::Config::from_lookup(SERVICE, lookup).unwrap_err();
            assert!(error.to_string().contains("OTEL_EXPORTER_OTLP_ENDPOINT"), "{error}");
        }
    }

    #[test]
    fn samplers_are_those_of_the_specification() {
        let sampler = |pairs| format!("{:?}", read(pairs).sampler);
        assert_eq!(sampler(&[]), "ParentBased(AlwaysOn)");
        assert_eq!(sampler(&[("OTEL_TRACES_SAMPLER", "always_off")]), "AlwaysOff");
        assert_eq!(
            sampler(&[
                ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
                ("OTEL_TRACES_SAMPLER_ARG", "0.01")
            ]),
            "ParentBased(TraceIdRatioBased(0.01))"
        );
        let odd =
            read(&[("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "2")]);
        assert_eq!(odd.warnings.len(), 1, "{:?}", odd.warnings);
    }

    #[test]
    fn malformed_values_fall_back_with_warning() {
        let config = read(&[
            ("OTEL_BSP_MAX_QUEUE_SIZE", "many"),
            ("OTEL_BSP_SCHEDULE_DELAY", "250"),
            ("OTEL_SDK_DISABLED", "perhaps"),
            ("OTEL_TRACES_EXPORTER", "zipkin"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "brotli"),
        ]);
        assert_eq!(config.batch.max_queue_size, 2048);
        assert_eq!(config.batch.schedule_delay, Duration::from_millis(250));
        assert!(!config.disabled);
        assert_eq!(config.warnings.len(), 5, "{:?}", config.warnings);
    }

    #[test]
    fn a_batch_is_never_larger_than_the_queue() {
        let batch = read(&[("OTEL_BSP_MAX_QUEUE_SIZE", "100")]).batch;
        assert_eq!(batch.max_export_batch_size, 100);
    }

    #[test]
    fn the_resource_names_the_service() {
        let name = |config: &OtelConfig| {
            config.resource(&SERVICE).get(&"service.name".into()).unwrap().to_string()
        };
        assert_eq!(name(&read(&[])), "service-t");
        assert_eq!(name(&read(&[("OTEL_SERVICE_NAME", "other")])), "other");
    }
}
