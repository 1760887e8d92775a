//! The handlers of the baselines with the telemetry of the library.

use std::net::SocketAddr;
use std::process::ExitCode;

use axum::Router;
use observability::Error;
use service_a::SERVICE;
use tokio::net::TcpListener;

use crate::baseline;
use crate::services::App;

/// Serves `app` until SIGTERM.
pub(crate) fn serve(app: App) -> ExitCode {
    match app {
        App::A => service_a::main(["service-a".into()]),
        App::B => service_b::main(["service-b".into()]),
        App::Layer => observability::run(serve_with_layer(baseline::service_a())),
        App::Api => serve_router(baseline::api()),
        App::Compute => serve_router(baseline::compute()),
    }
}

/// Serves `router` with the settings of service A until SIGTERM.
pub(crate) fn serve_router(router: Router) -> ExitCode {
    observability::run(async {
        let args: service_a::Args = SERVICE.parse(["router".into()])?;
        observability::init(SERVICE, &args.config)?.serve(router).await
    })
}

/// Serves `router` with `axum::serve`, which has no limits and timeouts.
async fn serve_with_layer(router: Router) -> Result<(), Error> {
    let args: service_a::Args = SERVICE.parse(["layer".into()])?;
    let telemetry = observability::init(SERVICE, &args.config)?;
    let router = telemetry.instrument(router);
    let shutdown = telemetry.shutdown_signal()?;
    let listener = TcpListener::bind(args.config.listen_addr()).await.map_err(Error::other)?;
    telemetry.log_listening(listener.local_addr().map_err(Error::other)?);
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    let server = axum::serve(listener, service).with_graceful_shutdown(shutdown);
    server.await.map_err(Error::other)?;
    telemetry.shutdown(args.config.shutdown_timeout());
    Ok(())
}
