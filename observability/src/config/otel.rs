//! The `OTEL_*` environment variables.
//!
//! Source: OpenTelemetry specification, "Environment Variable Specification" and "OpenTelemetry
//! Protocol Exporter". As specified, an unknown or malformed value causes a warning and the default
//! applies. Two values are errors because no span could ever be exported: an endpoint that is not a URL,
//! and a certificate file without usable certificates.

use std::ffi::OsString;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::TelemetryResourceDetector;
use opentelemetry_sdk::trace::Sampler;

use super::env_reader::EnvReader;
use super::pairs::parse_pairs;
use super::span_limits::SpanLimits;
use super::{Propagators, ServiceInfo};
use crate::http::KnownMethods;

/// Configuration of traces, from the `OTEL_*` variables.
#[derive(Debug, Clone)]
pub(crate) struct OtelConfig {
    /// `OTEL_SDK_DISABLED`: no spans are created; ids are still logged and propagated.
    pub(crate) disabled: bool,
    /// Destination of spans; `None` without an endpoint or if `OTEL_TRACES_EXPORTER` is `none`.
    pub(crate) otlp: Option<OtlpConfig>,
    /// `OTEL_TRACES_SAMPLER` and `OTEL_TRACES_SAMPLER_ARG`.
    pub(crate) sampler: Sampler,
    /// `OTEL_BSP_*`.
    pub(crate) batch: BatchConfig,
    /// `OTEL_SPAN_*_LIMIT` and the like.
    pub(crate) span_limits: SpanLimits,
    /// Request methods that are known; `OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS`.
    pub(crate) known_methods: KnownMethods,
    /// `OTEL_PROPAGATORS`.
    pub(crate) propagators: Propagators,
    /// `OTEL_SERVICE_NAME`.
    pub(crate) service_name: Option<String>,
    /// `OTEL_RESOURCE_ATTRIBUTES`.
    pub(crate) resource_attributes: Vec<(String, String)>,
    /// Warnings to log once the log exists.
    pub(crate) warnings: Vec<String>,
}

/// Destination and transport of spans.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OtlpConfig {
    /// URL of the traces endpoint.
    pub(crate) endpoint: String,
    /// `OTEL_EXPORTER_OTLP_PROTOCOL`.
    pub(crate) protocol: Protocol,
    /// `OTEL_EXPORTER_OTLP_COMPRESSION` is `gzip`.
    pub(crate) gzip: bool,
    /// Trusted certificates in PEM from the file named by `OTEL_EXPORTER_OTLP_CERTIFICATE`, in place
    /// of the system's. Read for `https` endpoints only.
    pub(crate) certificates: Option<Vec<u8>>,
    /// Headers of each export, such as credentials.
    pub(crate) headers: HeaderMap,
}

/// Encoding and transport of OTLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// `grpc`
    Grpc,
    /// `http/protobuf`
    HttpProtobuf,
}

impl Protocol {
    /// Returns the value of `OTEL_EXPORTER_OTLP_PROTOCOL`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::HttpProtobuf => "http/protobuf",
        }
    }
}

impl FromStr for Protocol {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Grpc, Self::HttpProtobuf]
            .into_iter()
            .find(|protocol| protocol.as_str().eq_ignore_ascii_case(text))
            .ok_or("expected grpc or http/protobuf")
    }
}

/// Size and schedule of export batches: the `OTEL_BSP_*` variables and their defaults, OpenTelemetry
/// specification "Environment Variable Specification", section "Batch Span Processor".
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BatchConfig {
    /// Maximum number of queued spans; `OTEL_BSP_MAX_QUEUE_SIZE`.
    pub(crate) max_queue_size: usize,
    /// Maximum number of spans in one export; `OTEL_BSP_MAX_EXPORT_BATCH_SIZE`.
    pub(crate) max_export_batch_size: usize,
    /// Maximum time that a span waits for its batch to fill; `OTEL_BSP_SCHEDULE_DELAY`, milliseconds.
    pub(crate) schedule_delay: Duration,
    /// Maximum duration of one attempt, and of a flush; the smaller of `OTEL_BSP_EXPORT_TIMEOUT` and
    /// `OTEL_EXPORTER_OTLP_TIMEOUT`, milliseconds.
    pub(crate) export_timeout: Duration,
}

impl Default for BatchConfig {
    fn default() -> Self {
        Self {
            max_queue_size: 2048,
            max_export_batch_size: 512,
            schedule_delay: Duration::from_secs(5),
            export_timeout: Duration::from_secs(30),
        }
    }
}

impl OtelConfig {
    /// Reads the variables through `lookup`.
    ///
    /// # Errors
    /// One message for each variable whose value cannot be used.
    pub(crate) fn read(lookup: &dyn Fn(&str) -> Option<OsString>) -> Result<Self, Vec<String>> {
        let mut env = EnvReader { lookup, errors: Vec::new(), warnings: Vec::new() };
        let disabled = match env.text("OTEL_SDK_DISABLED") {
            Some(text) if text.eq_ignore_ascii_case("true") => true,
            Some(text) if !text.eq_ignore_ascii_case("false") => {
                env.warn("OTEL_SDK_DISABLED", "expected true or false; using false");
                false
            }
            _ => false,
        };
        let sampler = read_sampler(&mut env);
        let batch = read_batch(&mut env);
        let otlp = read_otlp(&mut env);
        let service_name = env.text("OTEL_SERVICE_NAME");
        let resource_attributes = read_resource_attributes(&mut env);
        let span_limits = SpanLimits::read(&mut env);
        let propagators = read_propagators(&mut env);
        let known_methods = env.parse("OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS");
        if env.errors.is_empty() {
            Ok(Self {
                disabled,
                otlp,
                sampler,
                batch,
                span_limits,
                known_methods: known_methods.unwrap_or_default(),
                propagators,
                service_name,
                resource_attributes,
                warnings: env.warnings,
            })
        } else {
            Err(env.errors)
        }
    }

    /// Creates the resource of all spans and of `target_info`: name, version and a new id of the instance, and
    /// the SDK. `OTEL_RESOURCE_ATTRIBUTES` replaces any of them, and `OTEL_SERVICE_NAME` replaces the name.
    pub(crate) fn resource(&self, service: &ServiceInfo) -> Resource {
        let attributes =
            self.resource_attributes.iter().map(|(key, value)| (key.clone(), value.clone()));
        let name = self.service_name.iter().map(|name| ("service.name".to_owned(), name.clone()));
        let random_uuid = uuid::Builder::from_random_bytes(rand::random()).into_uuid();
        Resource::builder_empty()
            .with_detector(Box::new(TelemetryResourceDetector))
            .with_service_name(service.name)
            .with_attributes([
                KeyValue::new("service.version", service.version),
                KeyValue::new("service.instance.id", random_uuid.to_string()),
                KeyValue::new("process.pid", i64::from(std::process::id())),
            ])
            .with_attributes(attributes.chain(name).map(|(key, value)| KeyValue::new(key, value)))
            .build()
    }
}

fn read_otlp(env: &mut EnvReader<'_>) -> Option<OtlpConfig> {
    const EXPORTER: &str = "OTEL_TRACES_EXPORTER";
    const TRACES_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
    const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
    match env.enum_value(EXPORTER).as_deref() {
        None | Some("otlp") => {}
        Some("none") => return None,
        Some(_) => env.warn(EXPORTER, "expected otlp or none; using otlp"),
    }
    let protocol = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"]
        .into_iter()
        .find_map(|variable| env.parse(variable));
    let gzip = read_compression(env);
    let (variable, endpoint) = match env.text(TRACES_ENDPOINT) {
        Some(endpoint) => (TRACES_ENDPOINT, endpoint),
        None => (ENDPOINT, env.text(ENDPOINT)?),
    };
    let mut url = match reqwest::Url::parse(&endpoint) {
        Ok(url) if url.has_host() && matches!(url.scheme(), "http" | "https") => url,
        _ => {
            env.error(variable, "expected a URL such as http://127.0.0.1:4317");
            return None;
        }
    };
    if url.scheme() == "https" && cfg!(not(feature = "tls")) {
        env.error(variable, "https needs a build with the feature `tls`");
        return None;
    }
    #[cfg(not(feature = "tls"))]
    let certificates = None;
    #[cfg(feature = "tls")]
    let certificates = if url.scheme() == "https" { read_certificates(env) } else { None };
    if !url.username().is_empty() || url.password().is_some() {
        // The transports ignore credentials in the URL and would log them.
        env.warn(
            variable,
            "ignoring user and password; use OTEL_EXPORTER_OTLP_HEADERS for credentials",
        );
        let _ = url.set_username("");
        let _ = url.set_password(None);
    }
    // The specification's default is http/protobuf. Port 4317 is registered for OTLP over gRPC.
    let protocol = protocol.unwrap_or(match url.port() {
        Some(4317) => Protocol::Grpc,
        _ => Protocol::HttpProtobuf,
    });
    if protocol == Protocol::HttpProtobuf && variable == ENDPOINT {
        // The query, which may hold a key, stays behind the path.
        let path = format!("{}/v1/traces", url.path().trim_end_matches('/'));
        url.set_path(&path);
    }
    let endpoint = url.to_string();
    let headers = read_headers(env);
    Some(OtlpConfig { endpoint, protocol, gzip, certificates, headers })
}

/// Reads the headers. A malformed one is ignored, and its position in the list is named.
fn read_headers(env: &mut EnvReader<'_>) -> HeaderMap {
    let variables = ["OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"];
    let found = variables.into_iter().find_map(|variable| Some((variable, env.text(variable)?)));
    let Some((variable, list)) = found else { return HeaderMap::new() };
    let mut headers = HeaderMap::new();
    for (position, pair) in (1..).zip(parse_pairs(&list)) {
        let header = pair.and_then(|(name, value)| {
            let mut value = HeaderValue::try_from(value).ok()?;
            value.set_sensitive(true);
            Some((HeaderName::try_from(name).ok()?, value))
        });
        if let Some((name, value)) = header {
            headers.insert(name, value);
        } else {
            env.warn(variable, &format!("header {position} is not NAME=VALUE; ignoring it"));
        }
    }
    headers
}

/// Reads the attributes. A malformed list is discarded as a whole, as the specification of resources requires.
fn read_resource_attributes(env: &mut EnvReader<'_>) -> Vec<(String, String)> {
    const VARIABLE: &str = "OTEL_RESOURCE_ATTRIBUTES";
    let Some(list) = env.text(VARIABLE) else { return Vec::new() };
    parse_pairs(&list).collect::<Option<_>>().unwrap_or_else(|| {
        env.warn(VARIABLE, "expected KEY=VALUE pairs with percent-encoded values; ignoring all");
        Vec::new()
    })
}

/// Reads the compression as `opentelemetry-otlp` does, which reads it again for http/protobuf: the
/// first known value applies, in any case.
fn read_compression(env: &mut EnvReader<'_>) -> bool {
    let mut gzip = None;
    for variable in ["OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION"] {
        match env.enum_value(variable).as_deref() {
            None => {}
            Some("gzip") => gzip = gzip.or(Some(true)),
            Some("none") => gzip = gzip.or(Some(false)),
            Some(_) => env.warn(variable, "expected gzip or none; ignoring it"),
        }
    }
    gzip.unwrap_or(false)
}

#[cfg(feature = "tls")]
fn read_certificates(env: &mut EnvReader<'_>) -> Option<Vec<u8>> {
    let variables = ["OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE"];
    let (variable, path) =
        variables.into_iter().find_map(|variable| Some((variable, env.text(variable)?)))?;
    let message = match std::fs::read(path) {
        Ok(pem) => match count_certificates(&pem) {
            Ok(1..) => return Some(pem),
            Ok(_) => "expected a file with certificates in PEM".to_owned(),
            Err(error) => format!("expected certificates that can be trusted: {error}"),
        },
        Err(error) => format!("cannot be read: {error}"),
    };
    env.error(variable, &message);
    None
}

/// Returns the number of certificates in a file, or an error if one of them is not usable.
#[cfg(feature = "tls")]
fn count_certificates(pem: &[u8]) -> Result<usize, Box<dyn std::error::Error>> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;

    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        roots.add(certificate?)?;
    }
    Ok(roots.len())
}

fn read_sampler(env: &mut EnvReader<'_>) -> Sampler {
    const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
    const ARG: &str = "OTEL_TRACES_SAMPLER_ARG";
    let ratio = |env: &mut EnvReader<'_>| match env.text(ARG).map(|text| text.parse()) {
        Some(Ok(ratio)) if (0.0..=1.0).contains(&ratio) => Sampler::TraceIdRatioBased(ratio),
        None => Sampler::TraceIdRatioBased(1.0),
        _ => {
            env.warn(ARG, "expected a number from 0 to 1; using 1");
            Sampler::TraceIdRatioBased(1.0)
        }
    };
    let parent_based = |root| Sampler::ParentBased(Box::new(root));
    match env.enum_value(SAMPLER).as_deref() {
        None | Some("parentbased_always_on") => parent_based(Sampler::AlwaysOn),
        Some("always_on") => Sampler::AlwaysOn,
        Some("always_off") => Sampler::AlwaysOff,
        Some("traceidratio") => ratio(env),
        Some("parentbased_always_off") => parent_based(Sampler::AlwaysOff),
        Some("parentbased_traceidratio") => parent_based(ratio(env)),
        Some(_) => {
            env.warn(SAMPLER, "unknown sampler; using parentbased_always_on");
            parent_based(Sampler::AlwaysOn)
        }
    }
}

fn read_propagators(env: &mut EnvReader<'_>) -> Propagators {
    const VARIABLE: &str = "OTEL_PROPAGATORS";
    let Some(list) = env.text(VARIABLE) else { return Propagators::default() };
    Propagators::parse(&list, |name| {
        let name = name.unwrap_or("an unknown name");
        env.warn(VARIABLE, &format!("ignoring {name}; expected tracecontext, baggage or none"));
    })
}

fn read_batch(env: &mut EnvReader<'_>) -> BatchConfig {
    let default = BatchConfig::default();
    let max_queue_size = read_positive(env, "OTEL_BSP_MAX_QUEUE_SIZE", default.max_queue_size);
    let max_export_batch_size =
        read_positive(env, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", default.max_export_batch_size)
            .min(max_queue_size);
    let mut ms = |variable, default: Duration| {
        let default = u64::try_from(default.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(read_positive(env, variable, default))
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

/// Returns a number that is not 0, or else `default`.
fn read_positive<T>(env: &mut EnvReader<'_>, variable: &str, default: T) -> T
where
    T: FromStr<Err: fmt::Display> + PartialEq + Default,
{
    match env.parse(variable) {
        Some(number) if number != T::default() => number,
        Some(_) => {
            env.warn(variable, "expected a number greater than 0; using the default");
            default
        }
        None => default,
    }
}

#[cfg(test)]
mod tests;
