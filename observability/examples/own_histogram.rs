//! A service with a histogram of its own, recorded as any library or engineer would: through `metrics`.

use std::process::ExitCode;

use axum::Router;
use axum::extract::Path;
use axum::routing::post;
use observability::Error;

fn main() -> ExitCode {
    observability::run(serve())
}

async fn serve() -> Result<(), Error> {
    let service =
        observability::service!("own-histogram", log_label: "H", listen_addr: "127.0.0.1:8085");
    let telemetry = observability::init(service, &service.parse(std::env::args_os())?)?;
    telemetry.serve(Router::new().route("/record/{samples}", post(record))).await
}

async fn record(Path(samples): Path<u32>) {
    let histogram = metrics::histogram!("own_seconds");
    for sample in 0..samples {
        histogram.record(f64::from(sample % 1_000) / 1_000.0);
    }
}
