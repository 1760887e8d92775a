use std::collections::HashMap;
use std::num::NonZeroU8;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::config::LogFormat;

const SERVICE: ServiceInfo = ServiceInfo::new("service-t", "T", "127.0.0.1:8080");

/// Settings of a service that has one more than the common ones.
#[derive(Debug, clap::Args)]
struct Args {
    #[command(flatten)]
    config: Config,
    /// Speed
    #[arg(long, env, default_value = "3")]
    speed: NonZeroU8,
    /// Turn around
    #[arg(long, env, action = ArgAction::Set, num_args = 0..=1)]
    #[arg(default_missing_value = "true", default_value = "false")]
    turn: bool,
}

fn parse_args<const N: usize>(args: [&str; N], env: &[(&str, &str)]) -> Result<Args, Error> {
    let args = std::iter::once("t").chain(args).map(OsString::from);
    SERVICE.parse_from(args, &|name| {
        env.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
    })
}

#[test]
fn defaults_apply_without_settings() {
    let Args { config, speed, turn } = parse_args([], &[]).unwrap();
    assert_eq!(config.listen_addr, "127.0.0.1:8080".parse().unwrap());
    assert_eq!(config.admin_addr, None);
    assert_eq!(config.shutdown_timeout, Duration::from_secs(10));
    assert_eq!(config.drain_delay, Duration::ZERO);
    assert_eq!(config.log_format, LogFormat::Logfmt);
    assert_eq!((speed.get(), turn), (3, false));
}

#[test]
fn help_starts_with_description() {
    for (service, start) in [(SERVICE.description("About it"), "About it\n"), (SERVICE, "Usage: ")]
    {
        let args = ["t", "--help"].map(OsString::from);
        let help = service.parse_from::<Config>(args, &|_| None).unwrap_err().to_string();
        assert!(help.starts_with(start), "{help}");
    }
}

#[test]
fn all_invalid_settings_are_reported() {
    let env = [
        ("LISTEN_ADDR", "localhost"),
        ("SHUTDOWN_TIMEOUT_MS", "-1"),
        ("DRAIN_DELAY_MS", "99999999999"),
        ("LOG_FORMAT", "xml"),
        ("RUST_LOG", "=="),
        ("SPEED", "fast"),
        ("TURN", "around"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "there"),
    ];
    let error = parse_args(["--idle-timeout-ms=0"], &env).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    let message = error.to_string();
    assert!(message.starts_with("service-t: 9 invalid settings\n  "), "{message}");
    for name in [
        "LISTEN_ADDR (--listen-addr): ",
        "SHUTDOWN_TIMEOUT_MS (--shutdown-timeout-ms): expected a whole number of milliseconds",
        "DRAIN_DELAY_MS (--drain-delay-ms): ",
        "IDLE_TIMEOUT_MS (--idle-timeout-ms): ",
        "LOG_FORMAT (--log-format): expected logfmt or json",
        "RUST_LOG (--rust-log): ",
        "SPEED (--speed): ",
        "TURN (--turn): expected true or false",
        "OTEL_EXPORTER_OTLP_ENDPOINT: ",
    ] {
        assert!(message.contains(name), "no {name} in {message}");
    }
    for value in ["fast", "around", "there", "99999999999"] {
        assert!(!message.contains(value), "{value} is repeated: {message}");
    }
}

#[cfg(unix)]
#[test]
fn non_utf8_value_is_reported() {
    let lookup = |name: &str| (name == "LOG_FORMAT").then(|| any_bytes(vec![0xff]));
    let error = SERVICE.parse_from::<Config>([], &lookup).unwrap_err();
    assert!(error.to_string().contains("LOG_FORMAT (--log-format): not valid UTF-8"), "{error}");
}

#[test]
fn flags_are_parsed() {
    let args = parse_args(["--speed", "7", "--listen-addr=[::1]:0", "--turn"], &[]).unwrap();
    let listen_addr = args.config.listen_addr.to_string();
    assert_eq!((args.speed.get(), listen_addr.as_str(), args.turn), (7, "[::1]:0", true));
    assert_eq!(parse_args(["--sped", "7"], &[]).unwrap_err().exit_code(), 2);
    assert_eq!(parse_args(["--help"], &[]).unwrap_err().exit_code(), 0);
}

/// `requires` and `conflicts_with` apply between arguments that are each parsed by themselves.
#[test]
fn related_arguments_are_parsed() {
    #[derive(Debug, clap::Parser)]
    struct Related {
        #[arg(long, requires = "password")]
        user: Option<u32>,
        #[arg(long, conflicts_with = "anonymous")]
        password: Option<u32>,
        #[arg(long)]
        anonymous: bool,
    }
    let parse = |args: &[&str]| {
        super::parse::<Related>(std::iter::once(&"t").chain(args).map(OsString::from))
    };
    let Related { user, password, anonymous } = parse(&["--user=1", "--password=2"]).unwrap();
    assert_eq!((user, password, anonymous), (Some(1), Some(2), false));
    for args in [&["--user=1"][..], &["--password=2", "--anonymous"]] {
        assert!(matches!(parse(args), Err(Error::Usage(_))), "{args:?}");
    }
}

#[test]
fn flag_overrides_env() {
    let args = parse_args(["--speed=7"], &[("SPEED", "fast"), ("DRAIN_DELAY_MS", "5")]).unwrap();
    assert_eq!((args.speed.get(), args.config.drain_delay), (7, Duration::from_millis(5)));
}

#[test]
fn empty_value_is_unset() {
    let args = parse_args(["--speed=", "--admin-addr", ""], &[("DRAIN_DELAY_MS", "")]).unwrap();
    assert_eq!((args.speed.get(), args.config.admin_addr), (3, None));
    assert_eq!(args.config.drain_delay, Duration::ZERO);
}

#[test]
fn help_lists_defaults() {
    let help = parse_args(["--help"], &[]).unwrap_err().to_string();
    // clap breaks long lines.
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for name in FLAGS.into_iter().chain(["--speed", "--turn", "--health-check"]) {
        assert!(help.contains(name), "no {name} in {help}");
    }
    for name in &VARIABLES[..15] {
        assert!(help.contains(&format!("[env: {name}]")), "no {name} in {help}");
    }
    assert!(help.contains("[default: 127.0.0.1:8080]"), "{help}");
}

/// Variables that are read, those with a flag first.
const VARIABLES: [&str; 29] = [
    "LISTEN_ADDR",
    "ADMIN_ADDR",
    "SHUTDOWN_TIMEOUT_MS",
    "DRAIN_DELAY_MS",
    "MAX_CONCURRENT_REQUESTS",
    "IDLE_TIMEOUT_MS",
    "METRICS_SERIES_LIMIT",
    "METRICS_NATIVE_HISTOGRAMS",
    "LOG_FORMAT",
    "RUST_LOG",
    "TRUSTED_PROXIES",
    "ALLOWED_HOSTS",
    "PUBLIC_ENDPOINT",
    "RECORD_URL_QUERY",
    "LOG_PATH",
    "LONG_LIVED_TYPES",
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

/// Flags of the common settings.
const FLAGS: [&str; 16] = [
    "--listen-addr",
    "--admin-addr",
    "--shutdown-timeout-ms",
    "--drain-delay-ms",
    "--max-concurrent-requests",
    "--idle-timeout-ms",
    "--metrics-series-limit",
    "--metrics-native-histograms",
    "--log-format",
    "--rust-log",
    "--trusted-proxies",
    "--allowed-hosts",
    "--public-endpoint",
    "--record-url-query",
    "--log-path",
    "--long-lived-types",
];

#[cfg(unix)]
fn any_bytes(bytes: Vec<u8>) -> OsString {
    std::os::unix::ffi::OsStringExt::from_vec(bytes)
}

#[cfg(not(unix))]
fn any_bytes(bytes: Vec<u8>) -> OsString {
    String::from_utf8_lossy(&bytes).into_owned().into()
}

/// Values of all kinds, some of them secrets.
fn value() -> impl Strategy<Value = OsString> {
    let words = [
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
        2 => proptest::sample::select(words.to_vec()).prop_map(OsString::from),
        1 => any::<String>().prop_map(OsString::from),
        1 => proptest::collection::vec(any::<u8>(), 0..40).prop_map(any_bytes),
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
        let lookup = |name: &str| lookup.get(name).cloned();
        match SERVICE.parse_from::<Config>([], &lookup) {
            Ok(_) => {
                let otel = OtelConfig::read(&lookup).unwrap();
                let warnings = otel.warnings.join("\n");
                prop_assert!(!warnings.contains("hunter2"), "{}", warnings);
                let otlp = format!("{:?}", otel.otlp);
                prop_assert!(!otlp.contains("hunter2"), "{}", otlp);
            }
            Err(error) => {
                let message = error.to_string();
                prop_assert_eq!(error.exit_code(), 2);
                prop_assert!(names.iter().any(|name| message.contains(name)), "{}", message);
                prop_assert!(!message.contains("hunter2"), "{}", message);
            }
        }
    }

    #[test]
    fn arbitrary_args_never_panic(
        words in proptest::collection::vec(
            prop_oneof![
                8 => (proptest::sample::select(FLAGS.to_vec()), value())
                    .prop_map(|(flag, value)| vec![flag.into(), value]),
                1 => proptest::sample::select(vec![
                    "--log-format=json", "--listen-addr", "--", "-", "--help", "--health-checks", "5",
                ]).prop_map(|word| vec![word.into()]),
                1 => value().prop_map(|word| vec![word]),
            ],
            0..4,
        ),
    ) {
        let words = std::iter::once(OsString::from("t")).chain(words.concat());
        match SERVICE.parse_from::<Config>(words, &|_| None) {
            Ok(_) | Err(Error::Finished(_)) => {}
            Err(error @ Error::InvalidSettings { .. }) => {
                let message = error.to_string();
                prop_assert_eq!(error.exit_code(), 2);
                prop_assert!(VARIABLES.iter().any(|name| message.contains(name)), "{}", message);
                prop_assert!(!message.contains("hunter2"), "{}", message);
            }
            // clap repeats a word that is not a flag.
            Err(error) => prop_assert!(matches!(error, Error::Usage(_)), "{}", error),
        }
    }
}
