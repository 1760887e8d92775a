//! {{description}}

use std::process::ExitCode;

use axum::extract::Query;
use axum::routing::get;
use axum::{Json, Router};
use observability::{Error, ServiceInfo};
use serde::{Deserialize, Serialize};

const SERVICE: ServiceInfo = observability::service!(
    "{{project-name}}", log_label: "{{project-name}}", listen_addr: "127.0.0.1:8080"
);

fn main() -> ExitCode {
    observability::run(serve())
}

async fn serve() -> Result<(), Error> {
    let config = SERVICE.parse(std::env::args_os())?; // flags, variables, --help
    let telemetry = observability::init(SERVICE, &config)?; // logs, metrics, traces
    telemetry.serve(Router::new().route("/hello", get(hello))).await
}

#[derive(Deserialize)]
struct Params {
    name: Option<String>,
}

#[derive(Serialize)]
struct Greeting {
    message: String,
}

async fn hello(Query(params): Query<Params>) -> Json<Greeting> {
    let name = params.name.as_deref().unwrap_or("world");
    Json(Greeting { message: format!("hello, {name}") })
}
