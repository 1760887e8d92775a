//! `lab`: what it starts, what it shows, and that nothing is left of it.

use std::net::{SocketAddr, TcpListener};

use testkit::otlp::{OtlpCollector, Protocol};
use testkit::{LogLine, Process, ProcessBuilder, ReservedPort};

use crate::{lab, wait_until_ended, wait_until_refused};

/// Each port's flag, variable and default.
const PORTS: [(&str, &str, &str); 5] = [
    ("--service-a-addr", "SERVICE_A_ADDR", "127.0.0.1:8080"),
    ("--service-b-addr", "SERVICE_B_ADDR", "127.0.0.1:8081"),
    ("--jaeger-ui-addr", "JAEGER_UI_ADDR", "127.0.0.1:16686"),
    ("--otlp-grpc-addr", "OTLP_GRPC_ADDR", "127.0.0.1:4317"),
    ("--otlp-http-addr", "OTLP_HTTP_ADDR", "127.0.0.1:4318"),
];

fn on_free_ports() -> ProcessBuilder {
    lab().unset("LISTEN_ADDR").envs(PORTS.map(|(_, variable, _)| (variable, "127.0.0.1:0")))
}

/// What the screen says of a service: where it is and which process it is.
fn shown(lab: &Process, mark: &str) -> (SocketAddr, String) {
    lab.wait_for_text("the last line of the screen", |line| line.contains("ends it all"));
    let line = lab.wait_for_text("a service", |line| {
        line.trim_start().starts_with(&format!("{mark}  ")) && line.contains("pid")
    });
    let words: Vec<_> = line.split_whitespace().collect();
    let address = words[1].strip_prefix("http://").unwrap().parse().unwrap();
    (address, words[3].to_owned())
}

/// The URL of the screen's curl line.
fn url(lab: &Process) -> (SocketAddr, String) {
    let line = lab.wait_for_text("the curl line", |line| line.contains("curl \"http://"));
    let (_, url) = line.split_once("http://").unwrap();
    let (address, target) = url.trim_end_matches('"').split_once('/').unwrap();
    (address.parse().unwrap(), format!("/{target}"))
}

/// A log line of a service, as the lab shows it.
fn line_of(lab: &Process, mark: &str, trace_id: &str) -> LogLine {
    let line = lab.wait_for_text(&format!("a line of {mark}"), |line| {
        line.starts_with(&format!("{mark} ")) && line.contains(trace_id)
    });
    let line = line[mark.len() + 1..].split("  -> ").next().unwrap();
    LogLine::parse(line)
}

#[test]
fn banner_curl_command_works() {
    let lab = on_free_ports().start();
    let (address, target) = url(&lab);
    assert_eq!(address, shown(&lab, "B").0);
    let answer = testkit::http::get(address, &target);
    assert_eq!(answer.text(), r#"{"service_a":{"echo":"hello"},"service_b":"ok"}"#);
    assert_eq!(&line_of(&lab, "B", answer.trace_id())["endpoint"], "/call-echo");
    assert_eq!(&line_of(&lab, "A", answer.trace_id())["endpoint"], "/echo");
    // Faults are on in the lab.
    assert_eq!(testkit::http::get(shown(&lab, "A").0, "/faults").status, 200);
}

#[cfg(unix)]
#[test]
fn a_signal_stops_it_all_in_order() {
    for terminate in [true, false] {
        let lab = on_free_ports().start();
        let ((a, a_pid), (b, b_pid)) = (shown(&lab, "A"), shown(&lab, "B"));
        if terminate {
            lab.terminate();
        } else {
            lab.interrupt();
        }
        let exit = lab.wait();
        assert_eq!((exit.code, exit.stderr), (Some(0), vec![]));
        wait_until_ended(a, &a_pid);
        wait_until_ended(b, &b_pid);
        // Each had the time to say its last word, B first.
        let last_word = |mark: &str| {
            let is_it = |line: &String| line.starts_with(mark) && line.contains("msg=\"stopped\"");
            exit.stdout.iter().position(is_it).unwrap()
        };
        assert!(last_word("B ") < last_word("A "), "{:#?}", exit.stdout);
    }
}

#[test]
fn killed_lab_leaves_no_children() {
    let lab = on_free_ports().start();
    let ((a, a_pid), (b, b_pid)) = (shown(&lab, "A"), shown(&lab, "B"));
    lab.kill();
    lab.wait();
    wait_until_ended(a, &a_pid);
    wait_until_ended(b, &b_pid);
}

#[cfg(unix)]
#[test]
fn killed_service_a_degrades_b() {
    let lab = on_free_ports().start();
    let ((_, a_pid), (b, _)) = (shown(&lab, "A"), shown(&lab, "B"));
    let killed = std::process::Command::new("kill").arg(&a_pid).status().unwrap();
    assert!(killed.success());
    lab.wait_for_text("the word that A is down", |line| line.starts_with("* A is down"));
    let answer = testkit::http::get(b, "/call-echo?msg=hello");
    assert_eq!((answer.status, &answer.json()["error"]), (503, &"refused".into()));
    assert_eq!(&line_of(&lab, "B", answer.trace_id())["error"], "refused");
    assert_eq!(lab.stop().code, Some(0));
}

#[test]
fn spans_go_where_the_endpoint_says() {
    let backend = OtlpCollector::start();
    let lab = on_free_ports().envs(backend.variables(Protocol::HttpProtobuf)).start();
    let (address, target) = url(&lab);
    let answer = testkit::http::get(address, &target);
    let spans = backend.wait_for_trace(answer.trace_id(), 3);
    assert_eq!(spans[2].service(), "service-a");
}

#[test]
fn port_in_use_stops_everything() {
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let held_address = held.local_addr().unwrap().to_string();
    for (_, variable, _) in PORTS {
        let a = ReservedPort::take().leave();
        let mut launch = on_free_ports();
        if variable != "SERVICE_A_ADDR" {
            launch = launch.env("SERVICE_A_ADDR", a.to_string());
        }
        let exit = launch.env(variable, &held_address).run_to_exit();
        assert_eq!(exit.code, Some(1), "{variable}: {exit:?}");
        assert!(exit.stderr.join("\n").contains(&held_address), "{variable}: {exit:?}");
        wait_until_refused(a);
    }
}

#[test]
fn help_and_invalid_ports() {
    let help = lab().arg("--help").run_to_exit();
    assert_eq!(help.code, Some(0));
    let bad = lab().envs(PORTS.map(|(_, variable, _)| (variable, "nowhere"))).run_to_exit();
    assert_eq!((bad.code, bad.stdout.len()), (Some(2), 0));
    for (flag, variable, default) in PORTS {
        for text in [flag, variable, default] {
            assert!(help.stdout.join("\n").contains(text), "no {text} in {help:#?}");
        }
        assert!(bad.stderr.join("\n").contains(variable), "no {variable} in {bad:#?}");
    }
    let version = lab().arg("--version").run_to_exit();
    assert_eq!((version.code, version.stdout.len()), (Some(0), 1));
}
