//! The commands of docs/exercises.md and docs/teaching.md, run as the pages print them.
//!
//! A block `console` has commands, each behind `$ ` and followed by the lines that it prints. `…` stands for
//! any text within a line, and a line `…` for any number of lines. `cargo run` without ` -- `, and the last word
//! `jaeger` or `service-b`, start a program that runs until Ctrl-C. A block `text` has lines that the lab prints, in any
//! order. A command that reads `/metrics` or Jaeger is repeated until it prints what the page says, because
//! telemetry arrives after the response.

#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed assumption fails the test"
)]

use std::cmp::Reverse;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Instant;

use testkit::{Process, ProcessBuilder, ReservedPort, TEST_TIMEOUT};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Addresses on the pages, and the variables that select others. No process listens at the last one.
const ADDRESSES: [(&str, &str); 7] = [
    ("127.0.0.1:8080", "SERVICE_A_ADDR"),
    ("127.0.0.1:8081", "SERVICE_B_ADDR"),
    ("127.0.0.1:8082", "LISTEN_ADDR"),
    ("127.0.0.1:16686", "JAEGER_UI_ADDR"),
    ("127.0.0.1:4317", "OTLP_GRPC_ADDR"),
    ("127.0.0.1:4318", "OTLP_HTTP_ADDR"),
    ("127.0.0.1:4371", "UNUSED_ADDR"),
];

/// Headings of the parts of an exercise, in their order.
const PARTS: [&str; 5] = [
    "\n**Break.** ",
    "\n**Question.** ",
    "\n**Tool.** ",
    "\n**Command.** ",
    "\n<details><summary>Solution</summary>\n",
];

/// Line that follows the output of each command.
const END: &str = "end of the output";

/// Command and the lines that it prints. Without a command, the lines are those of the lab.
struct Step<'a> {
    command: &'a str,
    output: Vec<&'a str>,
}

fn steps(text: &str) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    for block in text.split("```").skip(1).step_by(2) {
        let mut lines = block.lines();
        match lines.next() {
            Some("console") => steps.extend(block.split("\n$ ").skip(1).map(|step| {
                let mut lines = step.lines();
                Step { command: lines.next().unwrap(), output: lines.collect() }
            })),
            Some("text") => steps.push(Step { command: "", output: lines.collect() }),
            language => assert_eq!(language, Some("rust"), "a block that no test runs"),
        }
    }
    steps
}

/// Returns `true` if a command runs until Ctrl-C.
fn is_program(command: &str) -> bool {
    let is_alone = ["jaeger", "service-b"].iter().any(|name| command.ends_with(name));
    command.contains("cargo run") && (is_alone || !command.contains(" -- "))
}

/// Terminals of a student.
struct Terminals {
    addresses: [SocketAddr; ADDRESSES.len()],
    /// Programs that run until Ctrl-C, first the lab.
    programs: Vec<Process>,
    shell: Shell,
}

impl Terminals {
    fn open() -> Self {
        let addresses = ADDRESSES.map(|_| ReservedPort::bind()).map(ReservedPort::release);
        Self { addresses, programs: Vec::new(), shell: Shell::start(addresses[1]) }
    }

    fn run(&mut self, text: &str) {
        for Step { command, output } in steps(text) {
            if command.is_empty() {
                for expected in output {
                    let matches = |line: &str| is_match(expected, &self.on_page(line));
                    self.programs[0].wait_for_stdout_line(expected, matches);
                }
            } else if is_program(command) {
                assert!(output.is_empty(), "{command}: its output belongs into a block `text`");
                self.start(command);
            } else {
                self.check(command, &output);
            }
        }
    }

    /// Starts a program. The lab takes the place of all that run.
    fn start(&mut self, command: &str) {
        let is_service = command.contains("--example") || command.ends_with("service-b");
        let last_line = if is_service {
            "msg=\"listening\""
        } else {
            self.stop();
            if command.ends_with("jaeger") { "Jaeger UI" } else { "ends it all" }
        };
        let command = self.on_machine(&command.replace("cargo run", "exec cargo run"));
        let variables = ADDRESSES.map(|(_, variable)| variable);
        let program = ProcessBuilder::new("bash")
            .args(["-c", &command])
            .envs(variables.into_iter().zip(self.addresses.map(|address| address.to_string())))
            .start();
        program.wait_for_stdout_line(last_line, |line| line.contains(last_line));
        self.programs.push(program);
    }

    fn stop(&mut self) {
        for program in self.programs.drain(..).rev() {
            program.interrupt();
            let exit = program.wait();
            assert_eq!(exit.code, Some(0), "{exit:#?}");
        }
    }

    /// Runs a command and compares what it prints.
    fn check(&mut self, command: &str, expected: &[&str]) {
        let is_read = command.contains("/metrics") || command.contains(":16686/");
        let deadline = Instant::now() + TEST_TIMEOUT;
        loop {
            let lines = self.shell.run(&self.on_machine(command));
            let lines: Vec<_> = lines.iter().map(|line| self.on_page(line)).collect();
            if are_matches(expected, &lines) {
                return;
            }
            if !is_read || Instant::now() > deadline {
                panic!("$ {command}\n{}\nexpected\n{}", lines.join("\n"), expected.join("\n"));
            }
        }
    }

    /// Replaces what differs between a page and this run: executables, addresses and process ids.
    fn on_machine(&self, command: &str) -> String {
        let lab = Path::new(env!("CARGO_BIN_EXE_lab"));
        let mut command = command
            .replace("cargo run --example ", &lab.with_file_name("examples/").to_string_lossy())
            .replace("cargo run -- ", &format!("{} ", lab.display()))
            .replace("cargo run", &lab.to_string_lossy());
        for ((address, _), actual) in ADDRESSES.iter().zip(self.addresses) {
            command = command.replace(address, &actual.to_string());
        }
        for line in self.programs.iter().flat_map(Process::stdout) {
            let words: Vec<_> = line.split_whitespace().collect();
            if let [label @ ("A" | "B"), _, "pid", pid, ..] = words[..] {
                command = command.replace(&format!("PID_{label}"), pid);
            }
        }
        command
    }

    /// Replaces the addresses of this run with those of a page.
    fn on_page(&self, line: &str) -> String {
        let mut replacements: Vec<_> = ADDRESSES
            .iter()
            .zip(self.addresses)
            .flat_map(|((address, _), actual)| {
                let (ip, port) = address.split_once(':').unwrap();
                [(actual.ip().to_string(), ip), (actual.port().to_string(), port)]
            })
            .collect();
        // An address may start with another one, as 127.0.0.23 does with 127.0.0.2.
        replacements.sort_by_key(|(actual, _)| Reverse(actual.len()));
        let line = line.trim_end_matches('\r').to_owned();
        replacements.iter().fold(line, |line, (actual, on_page)| line.replace(actual, on_page))
    }
}

fn are_matches(expected: &[&str], lines: &[String]) -> bool {
    match (expected, lines) {
        (["…", rest @ ..], _) => (0..=lines.len()).any(|at| are_matches(rest, &lines[at..])),
        ([first, rest @ ..], [line, lines @ ..]) => {
            is_match(first, line) && are_matches(rest, lines)
        }
        _ => expected.is_empty() && lines.is_empty(),
    }
}

fn is_match(expected: &str, line: &str) -> bool {
    let Some((start, rest)) = expected.split_once('…') else { return expected == line };
    let Some(line) = line.strip_prefix(start) else { return false };
    let mut ends = line.char_indices().map(|(at, _)| &line[at..]).chain([""]);
    ends.any(|end| is_match(rest, end))
}

/// Shell that keeps its variables and background jobs between commands.
struct Shell {
    process: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl Shell {
    fn start(service_b: SocketAddr) -> Self {
        let mut process = Command::new("bash")
            .current_dir(ROOT)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("LOAD_TARGET", format!("http://{service_b}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = process.stdin.take().unwrap();
        writeln!(stdin, "exec 2>&1").unwrap();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        let (sender, lines) = channel();
        thread::spawn(move || stdout.lines().try_for_each(|line| sender.send(line.unwrap())));
        Self { process, stdin, lines }
    }

    /// Runs a command and returns the lines that it prints.
    fn run(&mut self, command: &str) -> Vec<String> {
        writeln!(self.stdin, "{command}\nprintf '\\n%s\\n' '{END}'").unwrap();
        let next = || self.lines.recv_timeout(TEST_TIMEOUT).expect(command);
        let mut lines: Vec<_> =
            std::iter::repeat_with(next).take_while(|line| line != END).collect();
        // The output ends with a line break, or it has none at all.
        lines.pop_if(|line| line.is_empty());
        lines
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(ROOT).join(path)).unwrap()
}

/// Returns `true` if all tools are installed.
fn has_tools(tools: &[&str]) -> bool {
    let missing = tools.iter().find(|tool| Command::new(tool).arg("--version").output().is_err());
    missing.inspect(|tool| println!("skipped: {tool} is not installed")).is_none()
}

fn check_exercise(exercise: &str, is_runnable: bool) {
    let mut solution = exercise;
    let [title, preparation, question, tool, commands] = PARTS.map(|heading| {
        let (part, rest) = solution.split_once(heading).expect(heading);
        solution = rest;
        part
    });
    for part in [title, question, tool] {
        assert!(!part.is_empty() && !part.contains("```"), "a block that no test runs: {part}");
    }
    assert!(solution.trim_end().ends_with("</details>"), "text after the solution");
    let typed = |text| -> Vec<_> {
        let commands = steps(text).into_iter().map(|step| step.command);
        commands.filter(|command| !command.is_empty()).collect()
    };
    // A student starts the own file, and the solution starts an example of this repository.
    let commands = commands.replace("my_service", "service_c");
    let (asked, solved) = (typed(&commands), typed(solution));
    assert!(solved.starts_with(&asked), "the solution has other commands: {solved:#?}");
    if is_runnable {
        let mut terminals = Terminals::open();
        terminals.run(preparation);
        terminals.run(solution);
        terminals.stop();
    }
}

#[test]
fn longer_address_is_replaced_first() {
    if !has_tools(&["bash"]) {
        return;
    }
    let mut terminals = Terminals::open();
    terminals.addresses[0] = "127.0.0.2:50001".parse().unwrap();
    terminals.addresses[6] = "127.0.0.23:50002".parse().unwrap();
    assert_eq!(
        terminals.on_page("127.0.0.23:50002 127.0.0.2:50001"),
        "127.0.0.1:4371 127.0.0.1:8080"
    );
}

#[test]
fn exercises_print_their_answers() {
    let page = read("docs/exercises.md");
    let exercises: Vec<_> = page.split("\n## ").skip(1).collect();
    assert_eq!(exercises.len(), 10);
    let is_runnable = has_tools(&["bash", "curl"]);
    thread::scope(|scope| {
        for exercise in exercises {
            let title = exercise.lines().next().unwrap().to_owned();
            let exercise = move || check_exercise(exercise, is_runnable);
            thread::Builder::new().name(title).spawn_scoped(scope, exercise).unwrap();
        }
    });
}

#[test]
fn exercises_quote_service_c() {
    let code = format!("\n```rust\n{}```\n", read("lab/examples/service_c.rs"));
    assert!(read("docs/exercises.md").contains(&code), "{code}");
}

/// A run against the services of the lab has all points.
#[test]
fn rubric_gives_points() {
    if has_tools(&["bash", "curl", "python3"]) {
        let mut terminals = Terminals::open();
        terminals.run(&read("docs/teaching.md"));
        terminals.stop();
    }
}
