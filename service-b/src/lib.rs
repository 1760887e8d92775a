//! Service B, the client API: calls service A and degrades gracefully.
//!
//! `GET /call-echo?msg=hello` responds `{"service_a":{"echo":"hello"},"service_b":"ok"}`, or names the error
//! kind if A cannot be used. Telemetry takes two calls and a client builder, all in [`run`].

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use observability::config::milliseconds;
use observability::{CallError, Config, Error, Failure, ServiceInfo};
use reqwest::Url;
use serde::{Deserialize, Serialize};
use strict_query::{InvalidQuery, StrictQuery};

mod service_a;

pub use service_a::ServiceAClient;

/// Name and build of service B.
pub const SERVICE: ServiceInfo =
    observability::service!("service-b", log_label: "B", listen_addr: "127.0.0.1:8081");

/// Settings of service B.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Settings common to all services.
    #[command(flatten)]
    pub config: Config,
    /// Base URL of service A
    #[arg(long, env, value_name = "URL", value_parser = parse_url)]
    #[arg(default_value = "http://127.0.0.1:8080")]
    pub service_a_url: Url,
    /// Time budget of a call to A: connect, headers and body
    #[arg(long = "service-a-timeout-ms", env = "SERVICE_A_TIMEOUT_MS", value_name = "MS")]
    #[arg(default_value = "1000", value_parser = milliseconds(1))]
    pub service_a_timeout: Duration,
    /// Maximum number of retries of a call whose connection cannot be made, within the time budget
    #[arg(long, env, value_name = "N", default_value = "0")]
    pub service_a_connect_retries: u32,
    /// Number of consecutive failures after which calls to A pause for a second or more; 0 disables
    /// the circuit breaker
    #[arg(long, env, value_name = "N", default_value = "0")]
    pub service_a_breaker_failures: u32,
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

/// Parses `args` and the environment, and runs the service until it is told to stop.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    observability::run(async { run(SERVICE.parse(args)?, std::future::pending()).await })
}

/// Runs the service until it receives a shutdown signal or `shutdown` completes.
///
/// # Errors
/// If the telemetry or the client cannot be started, or an address cannot be bound.
pub async fn run(
    args: Args,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Error> {
    let telemetry = observability::init(SERVICE, &args.config)?;
    let client = telemetry
        .client()
        .timeout(args.service_a_timeout)
        .register_server(&args.service_a_url)
        .max_connect_retries(args.service_a_connect_retries)
        .circuit_breaker(&args.service_a_url, args.service_a_breaker_failures)
        .build()?;
    let service_a = ServiceAClient::new(client, &args.service_a_url);
    telemetry.server(router(service_a)).with_graceful_shutdown(shutdown).run().await
}

/// Creates the API.
pub fn router(service_a: ServiceAClient) -> Router {
    Router::new().route("/call-echo", get(call_echo)).with_state(service_a)
}

#[derive(Deserialize)]
struct EchoParams {
    #[serde(default)]
    msg: String,
}

#[derive(Serialize)]
struct CallEchoResponse {
    service_a: service_a::Echo,
    service_b: &'static str,
}

/// Response if A cannot be used. The fields are in alphabetical order.
#[derive(Serialize)]
struct ServiceUnavailable<'a> {
    details: &'a str,
    error: &'a str,
    http_status: u16,
    service_a: &'static str,
    service_b: &'static str,
    trace_id: String,
}

async fn call_echo(
    State(service_a): State<ServiceAClient>,
    params: Result<StrictQuery<EchoParams>, InvalidQuery>,
) -> Response {
    let msg = match params {
        Ok(StrictQuery(EchoParams { msg })) if msg.is_empty() => return missing_msg(),
        Ok(StrictQuery(EchoParams { msg })) => msg,
        Err(invalid) => return invalid.into_response(),
    };
    match service_a.echo(&msg).await {
        Ok(echo) => Json(CallEchoResponse { service_a: echo, service_b: "ok" }).into_response(),
        Err(error) => service_unavailable(error),
    }
}

fn missing_msg() -> Response {
    let body = serde_json::json!({"error": "Missing 'msg' parameter"});
    (StatusCode::BAD_REQUEST, Json(body)).into_response()
}

fn service_unavailable(error: CallError) -> Response {
    let kind = error.kind();
    let body = Json(ServiceUnavailable {
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

#[cfg(test)]
mod tests {
    use observability::testing::TestTelemetry;
    use testkit::ReservedPort;

    use super::*;

    /// Body, spans, metric and log line name a refused connection with the same word.
    #[tokio::test]
    async fn refused_call_has_one_word() {
        let test = TestTelemetry::start();
        let unused = ReservedPort::bind();
        let url = Url::parse(&format!("http://{}", unused.address())).unwrap();
        let client = test.client().build().unwrap();
        let router = router(ServiceAClient::new(client, &url)).layer(test.layer());
        let response = test.get(router, "/call-echo?msg=hello").await;
        assert_eq!(response.status(), 503);
        let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        let (server, client) = (test.span("GET /call-echo"), test.span("GET"));
        assert_eq!(client.parent_span_id, Some(server.span_id));
        let errors = test.sample("http_client_request_errors_total", &[("error_type", "refused")]);
        assert_eq!((body["error"].as_str(), errors), (Some("refused"), 1.0));
        assert_eq!(client.attributes["error.type"], "refused");
        assert_eq!(server.attributes["error.type"], "refused");
        assert_eq!(test.log_line("/call-echo")["error"], "refused");
        assert_eq!(body["trace_id"], server.trace_id);
    }
}
