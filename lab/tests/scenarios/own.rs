//! Runs against the services of this workspace.

use testkit::{Process, ReservedPort, wait_until};

use crate::{Report, lab};

fn service_a() -> Process {
    lab().arg("service-a").env("FAULTS_ENABLED", "true").serve()
}

fn service_b(service_a_url: &str) -> Process {
    lab().arg("service-b").env("SERVICE_A_URL", service_a_url).serve()
}

/// Each test passes, and body, log, counter and trace name the error kind of each failure.
#[test]
fn own_system_passes() {
    let report = Report::run(&["--explain", "--time-limit=2s"]);
    report.assert_passed();
    assert_eq!(report.named("skipped"), Vec::<String>::new());
    assert_eq!(report.json["suites"].as_array().unwrap().len(), 8);
    let tests = report.tests();
    for (name, kind) in [
        ("A down: B responds 503", "refused"),
        ("timeouts: B responds 503 in time if A hangs", "timeout"),
        ("error response format: A is down", "refused"),
        ("error response format: A hangs", "timeout"),
        ("error response format: A responds 500", "500"),
        ("error response format: A sends malformed JSON", "decode"),
        ("error response format: A closes the connection", "reset"),
    ] {
        let witnesses = &tests[name]["witnesses"];
        for witness in ["body", "log", "counter", "trace"] {
            assert_eq!(witnesses["words"][witness], kind, "{name}: {witnesses}");
        }
        let counter = format!("http_client_request_errors_total{{error_type=\"{kind}\"}} +1");
        assert_eq!(witnesses["counter"], counter);
        assert!(witnesses["log_b"].as_str().unwrap().contains("service=B"), "{witnesses}");
        let is_a_down = kind == "refused";
        assert_eq!(witnesses["log_a"].is_null(), is_a_down, "{name}: {witnesses}");
        assert!(witnesses["trace"].as_str().unwrap().contains("/trace/"), "{witnesses}");
    }
}

/// Settings in the environment of the shell do not reach the services.
#[test]
fn environment_is_ignored() {
    let exit = lab()
        .args(["scenarios", "--time-limit=2s"])
        .envs([
            ("SERVICE_A_TIMEOUT_MS", "60000"),
            ("SERVICE_A_BREAKER_FAILURES", "1"),
            ("RUST_LOG", "off"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"),
        ])
        .run_to_exit();
    assert_eq!(exit.code, Some(0), "{exit:#?}");
    let output = exit.stdout.join("\n");
    assert!(output.ends_with(" passed, 0 failed, 0 skipped"), "{output}");
    assert!(!output.contains('\x1b'), "{output}");
}

/// A running service A is broken through its `/faults`, which are cleared at the end.
#[test]
fn running_services_pass() {
    let a = service_a();
    let b = service_b(&a.url());
    let faults = a.get("/faults").json();
    let report = Report::of_services(&a.url(), &b.url());
    report.assert_passed();
    assert_eq!(a.get("/faults").json(), faults);
    let tests = report.tests();
    assert_eq!(tests["timeouts: B waits for a slow A"]["result"], "passed");
    let skipped = &tests["A down: B responds 503"];
    assert_eq!(skipped["result"], "skipped");
    assert_eq!(skipped["reason"], "service A is up; stop it and run the scenarios again");
}

#[cfg(unix)]
#[test]
fn signal_clears_faults() {
    let a = service_a();
    let b = service_b(&a.url());
    let args = ["scenarios", "--service-a", &a.url(), "--service-b", &b.url()];
    let scenarios = lab().args(args).start();
    wait_until("a fault in service A", || a.get("/faults").json()["hang"] == true);
    let exit = scenarios.stop();
    assert_eq!(exit.code, Some(1), "{exit:?}");
    assert_eq!(exit.stderr, ["lab scenarios: aborted by SIGTERM"]);
    assert_eq!(a.get("/faults").json()["hang"], false);
}

#[test]
fn stopped_services_fail() {
    let (a, b) = (ReservedPort::bind(), ReservedPort::bind());
    let report = Report::of_services(&a.url(), &b.url());
    assert_eq!((report.code, &report.json["passed"]), (Some(1), &0.into()));
    assert_eq!(report.tests()["health checks: B is healthy"]["reason"], "service B is down");
}
