//! Property tests of settings: arbitrary values are accepted, or rejected with a message that contains the
//! setting's name and not its value.

#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed assumption fails the test"
)]

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use observability::config::Reader;
use observability::{Config, ServiceInfo};
use proptest::prelude::*;

const SERVICE: ServiceInfo = ServiceInfo {
    name: "service-t",
    log_label: "T",
    description: "Test service",
    version: "1.0.0",
    revision: "unknown",
    listen_addr: "127.0.0.1:0",
};

/// Environment variables of a service.
const VARIABLES: [&str; 21] = [
    "LISTEN_ADDR",
    "ADMIN_ADDR",
    "SHUTDOWN_TIMEOUT_MS",
    "DRAIN_DELAY_MS",
    "MAX_CONCURRENT_REQUESTS",
    "IDLE_TIMEOUT_MS",
    "LOG_FORMAT",
    "RUST_LOG",
    "OTEL_SDK_DISABLED",
    "OTEL_SERVICE_NAME",
    "OTEL_TRACES_EXPORTER",
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
    "OTEL_EXPORTER_OTLP_TIMEOUT",
    "OTEL_EXPORTER_OTLP_COMPRESSION",
    "OTEL_EXPORTER_OTLP_CERTIFICATE",
    "OTEL_BSP_MAX_QUEUE_SIZE",
    "OTEL_BSP_SCHEDULE_DELAY",
];

/// Command-line flags of a service.
const FLAGS: [&str; 8] = [
    "--listen-addr",
    "--admin-addr",
    "--shutdown-timeout-ms",
    "--drain-delay-ms",
    "--max-concurrent-requests",
    "--idle-timeout-ms",
    "--log-format",
    "--rust-log",
];

fn value() -> impl Strategy<Value = OsString> {
    let values = [
        "0",
        "1",
        "-1",
        "10000",
        "18446744073709551616",
        "1e9",
        "NaN",
        "inf",
        "true",
        "logfmt",
        "127.0.0.1:0",
        "[::1]:65536",
        "http://a:4317",
        "http://user:hunter2@a/",
        "https://a",
        "http://",
        "grpc",
        "traceidratio",
        "info,access=warn",
        "=",
        "a=b=c",
        "hunter2",
        "",
    ];
    prop_oneof![
        2 => proptest::sample::select(values.to_vec()).prop_map(OsString::from),
        1 => any::<String>().prop_map(OsString::from),
        1 => proptest::collection::vec(any::<u8>(), 0..40).prop_map(OsString::from_vec),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn arbitrary_env_never_panics(
        values in proptest::collection::hash_map(
            proptest::sample::select(VARIABLES.to_vec()), value(), 0..8,
        ),
    ) {
        let names: Vec<_> = values.keys().copied().collect();
        let lookup: HashMap<&str, OsString> = values;
        match Config::from_lookup(SERVICE, move |name| lookup.get(name).cloned()) {
            Ok(config) => {
                let warnings = config.otel.warnings.join("\n");
                prop_assert!(!warnings.contains("hunter2"), "{}", warnings);
                let otlp = format!("{:?}", config.otel.otlp);
                prop_assert!(!otlp.contains("hunter2"), "{}", otlp);
            }
            Err(exit) => {
                let message = exit.to_string();
                prop_assert_eq!(exit.code(), 2);
                prop_assert!(names.iter().any(|name| message.contains(name)), "{}", message);
                prop_assert!(!message.contains("hunter2"), "{}", message);
            }
        }
    }

    #[test]
    fn arbitrary_args_never_panic(
        args in proptest::collection::vec(
            prop_oneof![
                8 => (proptest::sample::select(FLAGS.to_vec()), value())
                    .prop_map(|(flag, value)| vec![flag.into(), value]),
                1 => proptest::sample::select(vec![
                    "--log-format=json", "--listen-addr", "--", "-", "--help", "--health-checks", "5",
                ]).prop_map(|arg| vec![arg.into()]),
                1 => value().prop_map(|arg| vec![arg]),
            ],
            0..4,
        ),
    ) {
        let args = std::iter::once(OsString::from("t")).chain(args.concat());
        match Reader::from_args(SERVICE, &[], args).map(|reader| reader.finish(|_| ())) {
            Ok(Ok(_)) => {}
            Ok(Err(exit)) => {
                let message = exit.to_string();
                prop_assert_eq!(exit.code(), 2);
                prop_assert!(VARIABLES.iter().any(|name| message.contains(name)), "{}", message);
                prop_assert!(!message.contains("hunter2"), "{}", message);
            }
            // The message about an unknown flag repeats it.
            Err(exit) => prop_assert!(matches!(exit.code(), 0 | 2)),
        }
    }
}
