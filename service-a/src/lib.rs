//! Service A, the echo API.
//!
//! `GET /echo?msg=hello` responds `{"echo":"hello"}`. Telemetry takes two calls, both in [`run`].

use std::ffi::OsString;
use std::process::ExitCode;

use axum::middleware::from_fn_with_state;
use axum::routing::get;
use axum::{Json, Router};
use clap::ArgAction;
use observability::{Config, Error, ServiceInfo};
use serde::{Deserialize, Serialize};
use strict_query::StrictQuery;

mod faults;

pub use faults::FaultInjector;

/// Name and build of service A.
pub const SERVICE: ServiceInfo =
    observability::service!("service-a", log_label: "A", listen_addr: "127.0.0.1:8080");

/// Settings of service A.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Settings common to all services.
    #[command(flatten)]
    pub config: Config,
    /// Allow PUT /faults to make /echo slow, failing, hanging, resetting or malformed
    #[arg(long, env, value_name = "true|false", action = ArgAction::Set)]
    #[arg(num_args = 0..=1, default_missing_value = "true", default_value = "false")]
    pub faults_enabled: bool,
}

/// Parses `args` and the environment, and runs the service until it is told to stop.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    observability::run(async { run(SERVICE.parse(args)?, std::future::pending()).await })
}

/// Runs the service until it receives a shutdown signal or `shutdown` completes.
///
/// # Errors
/// If the telemetry cannot be started or an address cannot be bound.
pub async fn run(
    args: Args,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Error> {
    let telemetry = observability::init(SERVICE, &args.config)?;
    let faults = args.faults_enabled.then(FaultInjector::default);
    telemetry
        .server(router(faults.as_ref()))
        .merge_admin(faults::faults_router(faults))
        .with_graceful_shutdown(shutdown)
        .run()
        .await
}

/// Creates the API. `faults` affect `/echo` only.
pub fn router(faults: Option<&FaultInjector>) -> Router {
    let mut echo = get(echo);
    if let Some(faults) = faults {
        echo = echo.layer(from_fn_with_state(faults.clone(), faults::inject_fault));
    }
    Router::new().route("/echo", echo)
}

#[derive(Deserialize)]
struct EchoParams {
    #[serde(default)]
    msg: String,
}

#[derive(Serialize)]
struct EchoResponse {
    echo: String,
}

async fn echo(StrictQuery(params): StrictQuery<EchoParams>) -> Json<EchoResponse> {
    Json(EchoResponse { echo: params.msg })
}

#[cfg(test)]
mod tests {
    use observability::testing::TestTelemetry;

    use super::*;

    #[tokio::test]
    async fn echo_is_recorded() {
        let test = TestTelemetry::start();
        let response = test.get(router(None).layer(test.layer()), "/echo?msg=hello").await;
        assert_eq!(response.body(), r#"{"echo":"hello"}"#);
        assert_eq!(test.span("GET /echo").attributes["http.response.status_code"], "200");
        assert_eq!(test.log_line("/echo")["status"], "ok");
    }

    #[tokio::test]
    async fn undecodable_query_is_client_error() {
        let test = TestTelemetry::start();
        let response = test.get(router(None).layer(test.layer()), "/echo?msg=%ff").await;
        assert_eq!(response.status(), 400);
        assert_eq!(test.span("GET /echo").error, None);
        assert_eq!(test.log_line("/echo")["level"], "warn");
    }
}
