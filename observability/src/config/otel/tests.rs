use super::*;

const SERVICE: ServiceInfo = ServiceInfo::new("service-t", "T", "127.0.0.1:0");

fn try_read(pairs: &[(&str, &str)]) -> Result<OtelConfig, Vec<String>> {
    OtelConfig::read(&|name| {
        pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
    })
}

fn read(pairs: &[(&str, &str)]) -> OtelConfig {
    try_read(pairs).unwrap()
}

#[test]
fn signal_compression_overrides_general() {
    const OF_TRACES: &str = "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION";
    const OF_ALL: &str = "OTEL_EXPORTER_OTLP_COMPRESSION";
    const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://h");
    let cases: [(&'static [(&str, &str)], bool); 5] = [
        (&[ENDPOINT], false),
        (&[ENDPOINT, (OF_ALL, "GZIP")], true),
        (&[ENDPOINT, (OF_TRACES, "gzip"), (OF_ALL, "none")], true),
        (&[ENDPOINT, (OF_TRACES, "none"), (OF_ALL, "gzip")], false),
        (&[ENDPOINT, (OF_TRACES, "brotli"), (OF_ALL, "gzip")], true),
    ];
    for (pairs, gzip) in cases {
        assert_eq!(read(pairs).otlp.unwrap().gzip, gzip, "{pairs:?}");
    }
}

#[test]
fn export_requires_endpoint() {
    assert_eq!(read(&[]).otlp, None);
    let none = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317"), ("OTEL_TRACES_EXPORTER", "none")];
    assert_eq!(read(&none).otlp, None);
}

#[test]
fn protocol_defaults_by_port() {
    let otlp = |pairs| read(pairs).otlp.unwrap();
    let (grpc, http) = (Protocol::Grpc, Protocol::HttpProtobuf);
    type Case = (&'static [(&'static str, &'static str)], Protocol, &'static str);
    let cases: [Case; 5] = [
        (&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317")], grpc, "http://c:4317/"),
        (&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318/")], http, "http://c:4318/v1/traces"),
        (
            &[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:1"),
                ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ],
            grpc,
            "http://c:1/",
        ),
        (
            &[
                ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c:1/own"),
                ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://d:4317"),
            ],
            http,
            "http://c:1/own",
        ),
        (
            &[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:1"),
                ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc"),
                ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            ],
            grpc,
            "http://c:1/",
        ),
    ];
    for (pairs, protocol, endpoint) in cases {
        assert_eq!(
            otlp(pairs),
            OtlpConfig {
                endpoint: endpoint.to_owned(),
                protocol,
                gzip: false,
                certificates: None,
                headers: HeaderMap::new()
            },
            "{pairs:?}"
        );
    }
}

#[test]
fn endpoint_credentials_are_stripped() {
    let config = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://user:secret@c:4318")]);
    assert_eq!(config.otlp.unwrap().endpoint, "http://c:4318/v1/traces");
    assert_eq!(config.warnings.len(), 1);
    assert!(!config.warnings[0].contains("secret"), "{:?}", config.warnings);
}

#[test]
fn invalid_endpoint_names_variable() {
    for endpoint in ["collector:4317", "not a url", "ftp://c"] {
        let errors = try_read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)]).unwrap_err();
        assert!(errors[0].starts_with("OTEL_EXPORTER_OTLP_ENDPOINT: "), "{errors:?}");
    }
}

#[test]
fn samplers_follow_specification() {
    let sampler = |pairs| format!("{:?}", read(pairs).sampler);
    assert_eq!(sampler(&[]), "ParentBased(AlwaysOn)");
    assert_eq!(sampler(&[("OTEL_TRACES_SAMPLER", "always_off")]), "AlwaysOff");
    assert_eq!(
        sampler(&[
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.01")
        ]),
        "ParentBased(TraceIdRatioBased(0.01))"
    );
    let odd = read(&[("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "2")]);
    assert_eq!(odd.warnings.len(), 1, "{:?}", odd.warnings);
}

#[test]
fn malformed_values_fall_back_with_warning() {
    let config = read(&[
        ("OTEL_BSP_MAX_QUEUE_SIZE", "many"),
        ("OTEL_BSP_SCHEDULE_DELAY", "250"),
        ("OTEL_SDK_DISABLED", "perhaps"),
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "brotli"),
    ]);
    assert_eq!(config.batch.max_queue_size, 2048);
    assert_eq!(config.batch.schedule_delay, Duration::from_millis(250));
    assert!(!config.disabled);
    assert_eq!(config.warnings.len(), 5, "{:?}", config.warnings);
}

#[test]
fn batch_size_is_limited_by_queue() {
    let batch = read(&[("OTEL_BSP_MAX_QUEUE_SIZE", "100")]).batch;
    assert_eq!(batch.max_export_batch_size, 100);
}

#[test]
fn resource_has_service_name() {
    let name = |config: &OtelConfig| {
        config.resource(&SERVICE).get(&"service.name".into()).unwrap().to_string()
    };
    assert_eq!(name(&read(&[])), "service-t");
    assert_eq!(name(&read(&[("OTEL_SERVICE_NAME", "other")])), "other");
}

/// A value from a file may end in a newline. The query stays behind the path that is added.
#[test]
fn endpoint_is_trimmed_with_query() {
    let otlp = |endpoint| read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)]).otlp.unwrap();
    assert_eq!(otlp(" http://c:4317\n").endpoint, "http://c:4317/");
    assert_eq!(otlp("http://c:1/api/?key=s\r\n").endpoint, "http://c:1/api/v1/traces?key=s");
}

#[test]
fn enum_values_match_any_case() {
    let config = read(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:1"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "GRPC"),
        ("OTEL_TRACES_SAMPLER", "ALWAYS_OFF"),
    ]);
    assert_eq!(config.otlp.unwrap().protocol, Protocol::Grpc);
    assert!(matches!(config.sampler, Sampler::AlwaysOff), "{:?}", config.sampler);
    assert_eq!(config.warnings, [""; 0]);
    let none = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:1"), ("OTEL_TRACES_EXPORTER", "NONE")];
    assert_eq!(read(&none).otlp, None);
}

#[test]
fn zero_batch_size_is_named() {
    let config = read(&[("OTEL_BSP_MAX_QUEUE_SIZE", "0")]);
    assert_eq!(config.batch.max_queue_size, 2048);
    let expected = "OTEL_BSP_MAX_QUEUE_SIZE: expected a number greater than 0; using the default";
    assert_eq!(config.warnings, [expected]);
}

#[test]
fn resource_attributes_replace_defaults() {
    let resource = |list: &str, name: &str| {
        let config = read(&[("OTEL_RESOURCE_ATTRIBUTES", list), ("OTEL_SERVICE_NAME", name)]);
        let resource = config.resource(&SERVICE);
        let get = |key: &'static str| resource.get(&key.into()).map(|value| value.to_string());
        let values = ["service.name", "service.version", "service.instance.id", "team"].map(get);
        (values.map(Option::unwrap_or_default), config.warnings)
    };
    let list = "service.name=n,service.version=9,service.instance.id=i,team=a%20b%2Cc";
    let own = ["n", "9", "i", "a b,c"].map(str::to_owned);
    assert_eq!(resource(list, ""), (own, vec![]));
    assert_eq!(resource(list, "other").0[0], "other");

    let (values, warnings) = resource("bad,team=x", "");
    assert_eq!((values[0].as_str(), values[3].as_str()), ("service-t", ""));
    let warning = "OTEL_RESOURCE_ATTRIBUTES: expected KEY=VALUE pairs with percent-encoded values; ignoring all";
    assert_eq!(warnings, [warning]);
}

#[test]
fn malformed_header_is_warned_of() {
    let read_headers = |traces: &str, all: &str| {
        let config = read(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317"),
            ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", traces),
            ("OTEL_EXPORTER_OTLP_HEADERS", all),
        ]);
        let headers = config.otlp.unwrap().headers;
        let headers =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()));
        (headers.collect::<Vec<_>>().join("; "), config.warnings)
    };
    assert_eq!(read_headers("", "a=1"), ("a: 1".to_owned(), vec![]));
    assert_eq!(read_headers("b=2", "a=1"), ("b: 2".to_owned(), vec![]));
    let (headers, warnings) =
        read_headers("", "api-key=a%20secret, X-Tenant = t=1 ,broken,bad name=x,empty=,k=%ff");
    assert_eq!(headers, "api-key: a secret; x-tenant: t=1; empty: ");
    let warning =
        |n| format!("OTEL_EXPORTER_OTLP_HEADERS: header {n} is not NAME=VALUE; ignoring it");
    assert_eq!(warnings, [3, 4, 6].map(warning));
}

#[test]
fn instance_id_is_random_uuid() {
    let id = || {
        let resource = read(&[]).resource(&SERVICE);
        resource.get(&"service.instance.id".into()).unwrap().to_string()
    };
    let (first, second) = (id(), id());
    assert_ne!(first, second);
    let lengths: Vec<_> = first.split('-').map(str::len).collect();
    assert_eq!(lengths, [8, 4, 4, 4, 12], "{first}");
    assert_eq!(&first[14..15], "4", "{first}");
    assert!(matches!(&first[19..20], "8" | "9" | "a" | "b"), "{first}");
}
