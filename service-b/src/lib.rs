//! Service B, the client API: calls service A and degrades gracefully.
//!
//! `GET /call-echo?msg=hello` answers `{"service_a":{"echo":"hello"},"service_b":"ok"}`, or says in
//! one word why A could not be used. Nothing here is about telemetry but the two calls and the
//! client builder in [`run`].

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use observability::config::Reader;
use observability::{CallError, Config, Exit, Failure, ServiceInfo, Setting};
use reqwest::Url;
use serde::{Deserialize, Serialize};
use strict_query::{InvalidQuery, StrictQuery};

mod service_a;

pub use service_a::ServiceA;

/// What this service is called.
pub const SERVICE: ServiceInfo =
    observability::service!("service-b", log_label: "B", listen_addr: "127.0.0.1:8081");

/// Where service A is.
pub const SERVICE_A_URL: Setting = Setting {
    variable: "SERVICE_A_URL",
    value: "URL",
    default: Some("http://127.0.0.1:8080"),
    help: "Base URL of service A",
};
/// How long B waits for A.
pub const SERVICE_A_TIMEOUT_MS: Setting = Setting {
    variable: "SERVICE_A_TIMEOUT_MS",
    value: "MS",
    default: Some("1000"),
    help: "Time budget of a call of A in all: connect, headers and body",
};

/// Whether calls are made again.
pub const SERVICE_A_CONNECT_RETRIES: Setting = Setting {
    variable: "SERVICE_A_CONNECT_RETRIES",
    value: "N",
    default: Some("0"),
    help: "Call A again, at most so often and within the time budget, where no connection is made",
};
/// Whether there is a circuit breaker.
pub const SERVICE_A_BREAKER_FAILURES: Setting = Setting {
    variable: "SERVICE_A_BREAKER_FAILURES",
    value: "N",
    default: Some("0"),
    help: "After so many failures in a row stop calling A for a second or more; 0 is never",
};

const SETTINGS: [Setting; 4] =
    [SERVICE_A_URL, SERVICE_A_TIMEOUT_MS, SERVICE_A_CONNECT_RETRIES, SERVICE_A_BREAKER_FAILURES];

/// The settings of service B.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What every service has.
    pub common: Config,
    /// [`SERVICE_A_URL`]
    pub service_a_url: Url,
    /// [`SERVICE_A_TIMEOUT_MS`]
    pub service_a_timeout: Duration,
    /// [`SERVICE_A_CONNECT_RETRIES`]
    pub service_a_connect_retries: u32,
    /// [`SERVICE_A_BREAKER_FAILURES`]
    pub service_a_breaker_failures: u32,
}

impl Settings {
    /// Reads them from the words of a command line and the environment.
    ///
    /// # Errors
    /// `--help`, `--version`, `--health-check`, or bad settings, all of them named.
    pub fn from_args(args: impl IntoIterator<Item = OsString>) -> Result<Self, Exit> {
        let reader = Reader::from_args(SERVICE, &SETTINGS, args)?;
        let (common, (url, timeout, retries, failures)) = reader.finish(|reader| {
            let url = reader.read_with(&SERVICE_A_URL, parse_url);
            let timeout = reader.milliseconds(&SERVICE_A_TIMEOUT_MS, 1);
            let retries = reader.read(&SERVICE_A_CONNECT_RETRIES).unwrap_or_default();
            let failures = reader.read(&SERVICE_A_BREAKER_FAILURES).unwrap_or_default();
            (url, timeout, retries, failures)
        })?;
        Ok(Self {
            common,
            service_a_url: url.ok_or_else(|| Exit::failure("SERVICE_A_URL: missing"))?,
            service_a_timeout: timeout,
            service_a_connect_retries: retries,
            service_a_breaker_failures: failures,
        })
    }
}

fn parse_url(text: &str) -> Result<Url, String> {
    let expected = "expected a URL such as http://127.0.0.1:8080";
    let url = Url::parse(text).map_err(|error| format!("{expected}: {error}"))?;
    match url.scheme() {
        "http" => Ok(url),
        "https" if cfg!(feature = "tls") => Ok(url),
        "https" => Err("https needs a build with the feature `tls`".to_owned()),
        _ => Err(expected.to_owned()),
    }
}

/// The whole process: settings, telemetry, client, router, serve.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    observability::run(async {
        let settings = Settings::from_args(args)?;
        run(settings, std::future::pending()).await
    })
}

/// Serves until told to stop, by a signal or by `stop`.
///
/// # Errors
/// Where the service cannot start.
pub async fn run(
    settings: Settings,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Exit> {
    let telemetry = observability::init(&settings.common)?;
    let client = telemetry
        .client()
        .timeout(settings.service_a_timeout)
        .register_server(&settings.service_a_url)
        .max_connect_retries(settings.service_a_connect_retries)
        .circuit_breaker(&settings.service_a_url, settings.service_a_breaker_failures)
        .build()?;
    let service_a = ServiceA::new(client, &settings.service_a_url);
    telemetry.server(router(service_a)).with_graceful_shutdown(stop).run().await
}

/// The API.
pub fn router(service_a: ServiceA) -> Router {
    Router::new().route("/call-echo", get(call_echo)).with_state(service_a)
}

#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    msg: String,
}

#[derive(Serialize)]
struct Answer {
    service_a: service_a::Echo,
    service_b: &'static str,
}

/// What B says where A cannot be used. Keys in alphabetical order.
#[derive(Serialize)]
struct Degraded<'a> {
    details: &'a str,
    error: &'a str,
    http_status: u16,
    service_a: &'static str,
    service_b: &'static str,
    trace_id: String,
}

async fn call_echo(
    State(service_a): State<ServiceA>,
    message: Result<StrictQuery<Message>, InvalidQuery>,
) -> Response {
    let msg = match message {
        Ok(StrictQuery(Message { msg })) if msg.is_empty() => return missing_msg(),
        Ok(StrictQuery(Message { msg })) => msg,
        Err(invalid) => return invalid.into_response(),
    };
    match service_a.echo(&msg).await {
        Ok(echo) => Json(Answer { service_a: echo, service_b: "ok" }).into_response(),
        Err(error) => degraded(error),
    }
}

fn missing_msg() -> Response {
    let body = serde_json::json!({"error": "Missing 'msg' parameter"});
    (StatusCode::BAD_REQUEST, Json(body)).into_response()
}

fn degraded(error: CallError) -> Response {
    let kind = error.kind();
    let body = Json(Degraded {
        details: error.details(),
        error: kind.as_str(),
        http_status: error.http_status().as_u16(),
        service_a: "unavailable",
        service_b: "ok",
        trace_id: observability::current_trace_id(),
    });
    let mut response = (StatusCode::SERVICE_UNAVAILABLE, body).into_response();
    response.extensions_mut().insert(Failure::from(error));
    response
}
