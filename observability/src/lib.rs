//! Logs, traces and metrics for an axum service: two calls and a client builder.
