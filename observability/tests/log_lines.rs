//! Log lines of events: the fields of their spans, names of fields, and records of the crate `log`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed assumption fails the test"
)]

use testkit::ProcessBuilder;

fn service(format: &str) -> ProcessBuilder {
    ProcessBuilder::example("spans").env("LOG_FORMAT", format)
}

/// Inner spans have precedence over outer ones, and the event over both. The spans of requests are omitted.
#[test]
fn span_fields_are_on_event_lines() {
    for format in ["logfmt", "json"] {
        let service = service(format).serve();
        service.get("/job");
        let line = service.wait_for_message("in two spans");
        let fields: Vec<_> = line
            .fields
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .filter(|(name, _)| !["ts", "trace_id", "span_id"].contains(name))
            .collect();
        let mut expected = vec![
            ("level", "info"),
            ("service", "S"),
            ("target", "spans"),
            ("msg", "in two spans"),
            ("own", "event"),
            ("ratio", "0.5"),
            ("shared", "inner"),
            ("id", "7"),
            ("later", "again"),
            ("field.level", "x"),
        ];
        let mut sorted = fields.clone();
        sorted.sort_unstable();
        expected.sort_unstable();
        assert_eq!(sorted, expected, "{format}");
        let outside = service.wait_for_message("outside");
        let keys = ["ts", "level", "service", "target", "msg", "trace_id", "span_id"];
        let mut names = outside.keys();
        names.sort_unstable();
        let mut keys = keys.to_vec();
        keys.sort_unstable();
        assert_eq!(names, keys, "{format}");
    }
}

/// Records of the crate `log` have a line like events, with the ids of the request.
#[test]
fn log_records_are_lines() {
    for (filter, has_debug) in [("info,quiet=off", false), ("debug,quiet=off", true)] {
        let service = service("logfmt").env("RUST_LOG", filter).serve();
        let response = service.get("/log-record");
        service.wait_for_access_line(response.trace_id());
        let lines: Vec<_> =
            service.log().into_iter().filter(|line| line.get("target") == Some("legacy")).collect();
        assert_eq!(lines.len(), if has_debug { 2 } else { 1 }, "{lines:#?}");
        assert_eq!(
            lines[0].keys(),
            ["ts", "level", "service", "target", "msg", "trace_id", "span_id"]
        );
        assert_eq!((&lines[0]["msg"], &lines[0]["level"]), ("a log record", "info"));
        assert_eq!(&lines[0]["trace_id"], response.trace_id());
        assert!(service.log().iter().all(|line| line.get("target") != Some("quiet")));
    }
}

#[test]
fn other_logger_causes_warning() {
    let service = service("logfmt").env("OTHER_LOGGER", "1").serve();
    service.get("/log-record");
    let warning = service.wait_for_log_line("a warning", |line| &line["level"] == "warn");
    assert!(warning["msg"].contains("another logger is installed"), "{warning:?}");
}

/// Each key occurs once, and a field of an event never replaces one of the line.
#[test]
fn event_field_names_are_unique() {
    for format in ["logfmt", "json"] {
        let service = service(format).serve();
        let response = service.get("/names");
        // The parser rejects a duplicate key.
        let line = service.wait_for_message("names");
        assert_eq!(&line["level"], "info", "{format}");
        assert_eq!(&line["trace_id"], response.trace_id(), "{format}");
        for (name, value) in [
            ("field.level", "x"),
            ("field.ts", "y"),
            ("field.trace_id", "z"),
            ("field.msg", "m"),
            ("ratio", "0.5"),
            ("a__b_", "1"),
            ("twice", "1"),
        ] {
            assert_eq!(&line[name], value, "{format}: {name}");
        }
        let raw = service.wait_for_stdout_line("the line", |line| line.contains("twice"));
        assert_eq!(raw.matches("twice").count(), 1, "{raw}");
        assert_eq!(raw.matches("a__b_").count(), 1, "{raw}");
    }
}
