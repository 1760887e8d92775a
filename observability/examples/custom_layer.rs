//! Service with layers on both sides of the telemetry: CORS outside, a header inside.
//!
//! ```sh
//! cargo run -p observability --example custom_layer
//! curl -i -H "Origin: https://example.com" "http://127.0.0.1:8082/hello"
//! ```

use std::process::ExitCode;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::get;
use observability::{Error, ServiceInfo};
use tower_http::cors::CorsLayer;

const SERVICE: ServiceInfo = observability::service!("custom-layer", log_label: "custom-layer", listen_addr: "127.0.0.1:8082");

fn main() -> ExitCode {
    observability::run(serve())
}

async fn serve() -> Result<(), Error> {
    let config = SERVICE.parse(std::env::args_os())?;
    let telemetry = observability::init(SERVICE, &config)?;
    let router = Router::new().route("/hello", get(async || "hello")).layer(from_fn(tenant));
    // Outside of the telemetry: preflight requests make no spans, samples and log lines.
    telemetry.server(router).layer(CorsLayer::permissive()).run().await
}

/// Adds the tenant to the span and the log line. Inside of the telemetry, so that there is a request to
/// record it for.
async fn tenant(request: Request, next: Next) -> Response {
    if let Some(tenant) = request.headers().get("x-tenant").and_then(|value| value.to_str().ok()) {
        observability::record("tenant", tenant.to_owned());
    }
    next.run(request).await
}
