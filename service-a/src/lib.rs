//! Service A, the echo API.
//!
//! `GET /echo?msg=hello` answers `{"echo":"hello"}`. Nothing here is about telemetry but the two
//! calls in [`run`].

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

pub use faults::Faults;

/// What this service is called.
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

/// Serves until told to stop, by a signal or by `stop`.
///
/// # Errors
/// Where the service cannot start.
pub async fn run(args: Args, stop: impl Future<Output = ()> + Send + 'static) -> Result<(), Error> {
    let telemetry = observability::init(SERVICE, &args.config)?;
    let faults = args.faults_enabled.then(Faults::default);
    telemetry
        .server(router(faults.as_ref()))
        .merge_admin(faults::switch(faults))
        .with_graceful_shutdown(stop)
        .run()
        .await
}

/// The API. `faults` strike `/echo` alone.
pub fn router(faults: Option<&Faults>) -> Router {
    let mut echo = get(echo);
    if let Some(faults) = faults {
        echo = echo.layer(from_fn_with_state(faults.clone(), faults::strike));
    }
    Router::new().route("/echo", echo)
}

#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    msg: String,
}

#[derive(Serialize)]
struct Echo {
    echo: String,
}

async fn echo(StrictQuery(message): StrictQuery<Message>) -> Json<Echo> {
    Json(Echo { echo: message.msg })
}
