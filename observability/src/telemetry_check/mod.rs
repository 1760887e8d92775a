//! Check of the way from a span to its backend, for `--check-telemetry`.
//!
//! The report names each setting that is wrong and says what to do. It contains no header, and of the
//! endpoint neither user information nor query.

mod diagnosis;

use std::ffi::OsString;
use std::fmt::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::Sampler;
use reqwest::Url;
use tracing::Level;

use crate::config::variables::{self, Support};
use crate::config::{Config, OtelConfig, OtlpConfig, ServiceInfo};
use crate::http::redact_url;
use crate::traces::{export_once, test_span};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Variables of a proxy, which other HTTP clients use.
const PROXIES: [&str; 3] = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"];

/// Result of one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ok,
    /// The setting has no effect, but spans arrive.
    Note,
    Wrong,
}

/// Table of checks.
#[derive(Debug, Default)]
struct Report {
    text: String,
    is_wrong: bool,
}

impl Report {
    fn add(&mut self, state: State, check: &str, result: &str) {
        let word = match state {
            State::Ok => "ok",
            State::Note => "note",
            State::Wrong => "WRONG",
        };
        self.is_wrong |= state == State::Wrong;
        let result = result.replace('\n', "\n       ");
        let _ = writeln!(self.text, "{word:<6} {check:<38} {result}");
    }

    fn wrong(&mut self, check: &str, problem: &str, remedy: &str) {
        self.add(State::Wrong, check, &format!("{problem}\n-> {remedy}"));
    }
}

/// Checks settings and backend of a service. Blocks the thread.
///
/// # Errors
/// The report, if spans do not arrive or a setting is wrong.
pub(crate) fn check_telemetry(
    service: &ServiceInfo,
    config: &Config,
    otel: &OtelConfig,
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> Result<String, String> {
    let mut report = Report::default();
    let variables: Vec<_> = variables.filter(|(_, value)| !value.is_empty()).collect();
    for (name, _) in &variables {
        let name = name.to_string_lossy();
        if PROXIES.contains(&&*name.to_ascii_uppercase()) {
            let text = "not used for spans, which are sent to the endpoint itself";
            report.add(State::Note, &name, text);
        }
    }
    check_variables(&mut report, otel, variables.into_iter());
    let resource = otel.resource(service);
    show_settings(&mut report, service, config, otel, &resource);
    match &otel.otlp {
        _ if otel.disabled => report.wrong(
            "export",
            "spans are disabled",
            "Unset OTEL_SDK_DISABLED, or set it to false.",
        ),
        None => report.wrong(
            "export",
            "no endpoint is set, so spans are not exported",
            "Set OTEL_EXPORTER_OTLP_ENDPOINT, such as http://127.0.0.1:4317, and unset \
             OTEL_TRACES_EXPORTER if it is none.",
        ),
        Some(otlp) => check_backend(&mut report, otel.batch.export_timeout, otlp, &resource),
    }
    let verdict = if report.is_wrong {
        "\nNot every check passed. Each line that begins with WRONG is followed by what to do.\n"
    } else {
        "\nThe backend accepts spans.\n"
    };
    report.text.push_str(verdict);
    if report.is_wrong { Err(report.text) } else { Ok(report.text) }
}

/// Reports each `OTEL_*` variable that is set.
fn check_variables(
    report: &mut Report,
    otel: &OtelConfig,
    variables: impl Iterator<Item = (OsString, OsString)>,
) {
    let mut names: Vec<_> = variables::otel_variables(variables).map(|(name, _)| name).collect();
    names.sort_unstable();
    for name in names {
        let has_prefix = |warning: &&String| {
            warning.strip_prefix(&name).is_some_and(|rest| rest.starts_with(": "))
        };
        if let Some(warning) = otel.warnings.iter().find(has_prefix) {
            let problem = &warning[name.len() + 2..];
            report.wrong(&name, problem, "Correct the value, or unset the variable.");
            continue;
        }
        match variables::support(&name) {
            Some(Support::Honoured | Support::Partial(_)) => {
                report.add(State::Ok, &name, "honoured");
            }
            Some(Support::Unsupported(reason)) => {
                report.add(State::Note, &name, &format!("ignored, not supported; {reason}"));
            }
            None => {
                let problem = variables::warning(&name).unwrap_or_default();
                report.wrong(&name, &problem, "Correct the name, or unset the variable.");
            }
        }
    }
}

/// Reports the settings that decide which spans are recorded and where the telemetry is found.
fn show_settings(
    report: &mut Report,
    service: &ServiceInfo,
    config: &Config,
    otel: &OtelConfig,
    resource: &Resource,
) {
    let sampler = format!("{:?}", otel.sampler);
    if matches!(&otel.sampler, Sampler::AlwaysOff)
        || ["ParentBased(AlwaysOff)", "(0.0)"].iter().any(|none| sampler.contains(none))
    {
        let text = format!("{sampler}: no trace starts here; unset OTEL_TRACES_SAMPLER for all");
        report.add(State::Note, "sampler", &text);
    } else {
        report.add(State::Ok, "sampler", &sampler);
    }
    let propagators =
        [(otel.propagators.trace_context, "tracecontext"), (otel.propagators.baggage, "baggage")];
    let propagators: Vec<_> =
        propagators.iter().filter(|(is_on, _)| *is_on).map(|(_, name)| *name).collect();
    report.add(State::Ok, "propagators", &propagators.join(","));
    let (spans, batch) = (&otel.span_limits, &otel.batch);
    let length =
        spans.value_length.map_or("of any length".to_owned(), |max| format!("up to {max}"));
    let limits = format!(
        "{} attributes, {} events with {} attributes, {} links with {} attributes, texts {length}",
        spans.attributes, spans.events, spans.event_attributes, spans.links, spans.link_attributes,
    );
    report.add(State::Ok, "limits of a span", &limits);
    let limits = format!(
        "{} spans in the queue, {} per batch, every {} ms, {} ms per attempt",
        batch.max_queue_size,
        batch.max_export_batch_size,
        batch.schedule_delay.as_millis(),
        batch.export_timeout.as_millis(),
    );
    report.add(State::Ok, "limits of the export", &limits);
    let mut attributes: Vec<_> =
        resource.iter().map(|(name, value)| format!("{name}={value}")).collect();
    attributes.sort_unstable();
    report.add(State::Ok, "resource", &attributes.join(" "));
    let filter = &config.log_filter;
    if filter.would_enable("observability", &Level::WARN) {
        report.add(State::Ok, "log filter", &format!("{filter}; spans do not depend on it"));
    } else {
        report.wrong(
            "log filter",
            &format!("RUST_LOG={filter} hides the warnings about dropped spans"),
            "Add observability=warn to RUST_LOG. Spans do not depend on it.",
        );
    }
    let address = config.admin_routes_addr();
    let metrics = match address.connect_host() {
        Some(_) => format!("http://{address}{}/metrics", service.admin_prefix),
        None => format!("{}/metrics on {address}", service.admin_prefix),
    };
    report.add(State::Ok, "metrics", &metrics);
}

/// Resolves and connects to the endpoint, and exports nothing and then one span.
fn check_backend(report: &mut Report, timeout: Duration, otlp: &OtlpConfig, resource: &Resource) {
    let Ok(url) = Url::parse(&otlp.endpoint) else {
        return report.wrong("endpoint", "not a URL", "Set a URL such as http://127.0.0.1:4317.");
    };
    let protocol = otlp.protocol.as_str();
    report.add(State::Ok, "endpoint", &format!("{} ({protocol})", redact_url(&url)));
    let addresses = resolve(&url);
    if addresses.is_empty() {
        let problem = format!("{} does not resolve", url.host_str().unwrap_or_default());
        let remedy = "Correct the host name of the endpoint, or the name server of this host.";
        return report.wrong("resolve", &problem, remedy);
    }
    let list: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    report.add(State::Ok, "resolve", &list.join(" "));
    let Some(address) = connect(report, &addresses) else { return };

    let exports = [("empty export", Vec::new()), ("test span", vec![test_span()])];
    for (check, spans) in exports {
        let start = Instant::now();
        match export_once(otlp, timeout, resource, &spans) {
            Ok((0, _)) => {
                let tls = if url.scheme() == "https" { ", certificate verified" } else { "" };
                let text = format!("accepted in {} ms{tls}", start.elapsed().as_millis());
                report.add(State::Ok, check, &text);
            }
            Ok((_, message)) => report.wrong(
                check,
                &format!("partial success: the backend rejected the span: {message}"),
                "Look for the reason in the limits and the log of the backend.",
            ),
            Err(error) => {
                let details = error.to_string();
                let (problem, remedy) = diagnosis::diagnose(&details, otlp.protocol, &url, address);
                return report.wrong(check, &format!("{problem}: {details}"), remedy);
            }
        }
    }
}

/// Returns the addresses of the host, if the resolver responds in time.
fn resolve(url: &Url) -> Vec<SocketAddr> {
    let (addresses_tx, addresses) = mpsc::channel();
    let url = url.clone();
    thread::spawn(move || addresses_tx.send(url.socket_addrs(|| None)));
    let addresses = addresses.recv_timeout(RESOLVE_TIMEOUT);
    addresses.ok().and_then(Result::ok).unwrap_or_default()
}

/// Returns the first address that accepts a connection.
fn connect(report: &mut Report, addresses: &[SocketAddr]) -> Option<SocketAddr> {
    let mut problem = String::new();
    for address in addresses {
        match TcpStream::connect_timeout(address, CONNECT_TIMEOUT) {
            Ok(_) => {
                report.add(State::Ok, "connect", &address.to_string());
                return Some(*address);
            }
            Err(error) => problem = format!("{address}: {error}"),
        }
    }
    let remedy = "Start the backend, or correct the port of the endpoint. OTLP has 4317 for grpc and 4318 \
         for http/protobuf.";
    report.wrong("connect", &problem, remedy);
    None
}
