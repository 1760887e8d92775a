//! Tests of `lab scenarios` as a process.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed assumption fails the test"
)]

use std::collections::BTreeMap;

use serde_json::Value;
use testkit::ProcessBuilder;

mod broken;
mod own;
mod python;

/// Result of a run with `--json`.
struct Report {
    code: Option<i32>,
    json: Value,
}

impl Report {
    fn run(args: &[&str]) -> Self {
        let exit = lab().arg("scenarios").args(args).arg("--json").run_to_exit();
        let json = serde_json::from_str(&exit.stdout.join("\n"));
        Self { code: exit.code, json: json.unwrap_or_else(|error| panic!("{error}: {exit:?}")) }
    }

    /// Runs the scenarios against running services whose time limit is 1 s. A busy machine has two
    /// seconds more.
    fn of_services(service_a: &str, service_b: &str) -> Self {
        Self::run(&["--service-a", service_a, "--service-b", service_b, "--time-limit=2s"])
    }

    /// Returns the tests by suite and name.
    fn tests(&self) -> BTreeMap<String, &Value> {
        let suites = self.json["suites"].as_array().unwrap();
        let tests = suites.iter().flat_map(|suite| {
            let tests = suite["tests"].as_array().unwrap();
            tests.iter().map(|test| (name(&suite["name"], &test["name"]), test))
        });
        tests.collect()
    }

    /// Returns the names of the tests with this result.
    fn named(&self, result: &str) -> Vec<String> {
        let tests = self.tests().into_iter().filter(|(_, test)| test["result"] == result);
        let names: Vec<_> = tests.map(|(name, _)| name).collect();
        assert_eq!(self.json[result], names.len(), "{:#}", self.json);
        names
    }

    /// Checks that no test failed and that at least one passed.
    fn assert_passed(&self) {
        assert_eq!((self.code, self.named("failed")), (Some(0), vec![]), "{:#}", self.json);
    }
}

fn name(suite: &Value, test: &Value) -> String {
    format!("{}: {}", suite.as_str().unwrap(), test.as_str().unwrap())
}

fn lab() -> ProcessBuilder {
    ProcessBuilder::new(env!("CARGO_BIN_EXE_lab"))
}
