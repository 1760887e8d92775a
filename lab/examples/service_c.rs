//! Service C, which calls service B: the solution of the last exercise in docs/exercises.md.

use std::process::ExitCode;

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::get;
use observability::{Client, Error, RequestBuilderExt, ServiceInfo};
use reqwest::Url;
use serde_json::Value;

const SERVICE: ServiceInfo =
    observability::service!("service-c", log_label: "C", listen_addr: "127.0.0.1:8082");

fn main() -> ExitCode {
    observability::run(serve())
}

async fn serve() -> Result<(), Error> {
    let config = SERVICE.parse(std::env::args_os())?;
    let telemetry = observability::init(SERVICE, &config)?;
    let service_b = std::env::var("SERVICE_B_URL").map_err(Error::other)?;
    let service_b = Url::parse(&service_b).map_err(Error::other)?;
    let client = telemetry.client().build()?;
    let router = Router::new().route("/greet/{name}", get(greet)).with_state((client, service_b));
    telemetry.serve(router).await
}

async fn greet(State((client, mut url)): State<(Client, Url)>, Path(name): Path<String>) -> String {
    url.set_path("/call-echo");
    url.query_pairs_mut().append_pair("msg", &name);
    match client.get(url).fetch_json::<Value>().await {
        Ok(body) => format!("hello, {}", body["service_a"]["echo"]),
        Err(error) => format!("hello, echo unavailable: {}", error.kind()),
    }
}
