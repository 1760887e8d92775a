//! Service with metrics of its business: a counter, a gauge and a histogram from the `metrics` facade.
//!
//! ```sh
//! cargo run -p observability --example custom_metrics
//! curl -X POST "http://127.0.0.1:8082/orders/3"
//! curl "http://127.0.0.1:8082/metrics" | grep order
//! ```

use std::process::ExitCode;

use axum::Router;
use axum::extract::Path;
use axum::routing::post;
use metrics::{counter, describe_counter, describe_histogram, histogram};
use observability::{Error, ServiceInfo};

const SERVICE: ServiceInfo =
    observability::service!("orders", log_label: "orders", listen_addr: "127.0.0.1:8082");

fn main() -> ExitCode {
    observability::run(serve())
}

async fn serve() -> Result<(), Error> {
    let config = SERVICE.parse(std::env::args_os())?;
    let telemetry = observability::init(SERVICE, &config)?;
    describe_counter!("orders_total", "Number of orders");
    describe_histogram!("order_items", "Number of items of an order");
    telemetry.serve(Router::new().route("/orders/{items}", post(order))).await
}

/// Labels have few values. What identifies one order belongs to its span and its log line.
async fn order(Path(items): Path<u32>) -> String {
    let size = if items < 10 { "small" } else { "large" };
    counter!("orders_total", "size" => size).increment(1);
    histogram!("order_items").record(items);
    observability::record("order.items", i64::from(items));
    format!("ordered {items}")
}
