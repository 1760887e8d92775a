//! The server that the W3C's Trace Context test suite drives (https://github.com/w3c/trace-context,
//! `test/`): for `POST /test` with a list of `{"url": …, "arguments": […]}` it POSTs each `arguments`
//! to its `url`, within the trace of the request.
//!
//! ```sh
//! cargo run -p observability --example trace_context_harness          # listens on 127.0.0.1:5000
//! python3 test.py http://127.0.0.1:5000/test                          # in the suite's folder `test`
//! ```

use std::process::ExitCode;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::routing::post;
use axum::{Json, Router};
use observability::{Client, Error};
use serde::Deserialize;
use serde_json::Value;

fn main() -> ExitCode {
    observability::run(harness())
}

async fn harness() -> Result<(), Error> {
    let service = observability::service!(
        "trace-context-harness", log_label: "harness", listen_addr: "127.0.0.1:5000"
    );
    let telemetry = observability::init(service, &service.parse(std::env::args_os())?)?;
    let client = telemetry.client().timeout(Duration::from_secs(5)).build()?;
    telemetry.serve(Router::new().route("/test", post(call_all)).with_state(client)).await
}

#[derive(Deserialize)]
struct Call {
    url: String,
    arguments: Value,
}

async fn call_all(State(client): State<Client>, Json(calls): Json<Vec<Call>>) -> StatusCode {
    for Call { url, arguments } in calls {
        let call = client.post(url).header(CONTENT_TYPE, "application/json");
        if call.body(arguments.to_string()).send().await.is_err() {
            return StatusCode::BAD_GATEWAY;
        }
    }
    StatusCode::OK
}
