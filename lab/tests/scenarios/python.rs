//! Runs against services in another language.

use std::collections::BTreeSet;

use testkit::{Process, ProcessBuilder, ReservedPort};

use crate::Report;

/// Runs a Python program, and waits until it listens.
fn start(program: &str, args: &[&str]) -> Process {
    let process = ProcessBuilder::new("python3").args(["-c", program]).args(args).start();
    process.wait_for_stdout_line("a Python service", |line| line == "listening");
    process
}

/// Runs the scenarios with both services, without A and without B. No test fails, and each one that
/// needs no control of the services passes at least once.
fn assert_course_passes(program: &str) {
    let [a, b] = [(); 2].map(|()| ReservedPort::bind().release().to_string());
    let [a_url, b_url] = [&a, &b].map(|address| format!("http://{address}"));
    let mut passed = BTreeSet::new();
    let mut run = || {
        let report = Report::of_services(&a_url, &b_url);
        report.assert_passed();
        passed.extend(report.named("passed"));
        report.tests().len()
    };
    let service_a = start(program, &["a", &a]);
    let service_b = start(program, &["b", &b, &a_url]);
    let tests = run();
    drop(service_a);
    run();
    drop(service_b);
    let _service_a = start(program, &["a", &a]);
    run();
    // Two tests restart a service.
    assert_eq!(passed.len(), tests - 2, "{passed:#?}");
}

#[test]
fn standard_library_services_pass() {
    if ProcessBuilder::new("sh").args(["-c", "command -v python3"]).run_to_exit().code != Some(0) {
        return println!("skipped: Python is not installed");
    }
    assert_course_passes(include_str!("standard_library.py"));
}

#[test]
fn flask_services_pass() {
    let import = "command -v python3 && python3 -c 'import flask'";
    if ProcessBuilder::new("sh").args(["-c", import]).run_to_exit().code != Some(0) {
        return println!("skipped: Flask is not installed");
    }
    assert_course_passes(include_str!("flask_services.py"));
}
