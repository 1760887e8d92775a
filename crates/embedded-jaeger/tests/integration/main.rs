//! Tests of the in-memory Jaeger over loopback sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod api;
mod api_v3;
mod ingest;
mod jaeger;
mod limits;
mod monitor;
mod slow_clients;
mod startup;
mod support;
mod trace_tree;
mod ui;
