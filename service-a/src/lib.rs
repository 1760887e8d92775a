//! Service A, the echo API.
//!
//! `GET /echo?msg=hello` answers `{"echo":"hello"}`. Nothing here is about telemetry but the two
//! calls in [`run`].

use std::ffi::OsString;
use std::process::ExitCode;

use axum::middleware::from_fn_with_state;
use axum::routing::get;
use axum::{Json, Router};
use observability::config::{Reader, SWITCH};
use observability::{Config, Exit, ServiceInfo, Setting};
use serde::{Deserialize, Serialize};
use strict_query::StrictQuery;

mod faults;

pub use faults::Faults;

/// What this service is called.
pub const SERVICE: ServiceInfo =
    observability::service!("service-a", log_label: "A", listen_addr: "127.0.0.1:8080");

/// Whether `/faults` may be used.
pub const FAULTS_ENABLED: Setting = Setting {
    variable: "FAULTS_ENABLED",
    value: SWITCH,
    default: Some("false"),
    help: "Let PUT /faults make /echo slow, failing, hanging, resetting or garbled",
};

/// The settings of service A.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What every service has.
    pub common: Config,
    /// [`FAULTS_ENABLED`]
    pub faults_enabled: bool,
}

impl Settings {
    /// Reads them from the words of a command line and the environment.
    ///
    /// # Errors
    /// `--help`, `--version`, `--health-check`, or bad settings, all of them named.
    pub fn from_args(args: impl IntoIterator<Item = OsString>) -> Result<Self, Exit> {
        let reader = Reader::from_args(SERVICE, &[FAULTS_ENABLED], args)?;
        let (common, faults_enabled) =
            reader.finish(|reader| reader.read(&FAULTS_ENABLED).unwrap_or_default())?;
        Ok(Self { common, faults_enabled })
    }
}

/// The whole process: settings, telemetry, router, serve.
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
    let faults = settings.faults_enabled.then(Faults::default);
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
