//! The commands of docs/exercises.md and docs/teaching.md, run as the pages print them.
//!
//! A block `console` has commands, each behind `$ `, and the lines that each of them prints. `…` stands for any
//! text within a line, and a line `…` for any number of lines. `cargo run` without ` -- ` starts a program that
//! runs until Ctrl-C. A block `text` has lines that the lab prints in its terminal, in any order. A command that
//! only reads `/metrics` or Jaeger is repeated until it prints what the page says, because telemetry arrives
//! later than the response.
#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed assumption fails the test"
)]

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Instant;

use testkit::{Process, ProcessBuilder, ReservedPort, TEST_TIMEOUT};

/// Addresses on the pages, with the variables that select others.
const ADDRESSES: [(&str, &str); 7] = [
    ("127.0.0.1:8080", "SERVICE_A_ADDR"),
    ("127.0.0.1:8081", "SERVICE_B_ADDR"),
    ("127.0.0.1:8082", "LISTEN_ADDR"),
    ("127.0.0.1:16686", "JAEGER_UI_ADDR"),
    ("127.0.0.1:4317", "OTLP_GRPC_ADDR"),
    ("127.0.0.1:4318", "OTLP_HTTP_ADDR"),
    // No process listens there.
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

/// Line behind the output of each command.
const END: &str = "end of the output";

fn page(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Titles and texts of the exercises.
fn exercises(page: &str) -> Vec<(&str, &str)> {
    let sections = page.split("\n## ").skip(1).map(|section| section.split_once('\n').unwrap());
    sections.filter(|(title, _)| title.starts_with(|char: char| char.is_ascii_digit())).collect()
}

/// Splits an exercise at the headings of its parts.
fn parts<'a>(title: &str, mut text: &'a str) -> Vec<&'a str> {
    let mut parts = Vec::new();
    for heading in PARTS {
        let (before, after) =
            text.split_once(heading).unwrap_or_else(|| panic!("{title}: no {heading}"));
        parts.push(before);
        text = after;
    }
    let (solution, rest) = text.split_once("</details>").unwrap();
    assert_eq!(rest.trim(), "", "{title}: text behind the solution");
    parts.push(solution);
    parts.split_off(1)
}

/// Block of a page.
enum Block<'a> {
    /// Command and its output.
    Command(&'a str, Vec<&'a str>),
    /// Line on the terminal of the lab.
    LabLine(&'a str),
}

fn blocks(text: &str) -> Vec<Block<'_>> {
    let mut blocks = Vec::new();
    let mut language = None;
    for line in text.lines() {
        match (language, line.strip_prefix("```"), line.strip_prefix("$ ")) {
            (None, Some(name), _) => language = Some(name),
            (Some(_), Some(_), _) => language = None,
            (Some("console"), _, Some(command)) => blocks.push(Block::Command(command, vec![])),
            (Some("console"), ..) => match blocks.last_mut() {
                Some(Block::Command(_, output)) => output.push(line),
                _ => panic!("output without a command: {line}"),
            },
            (Some("text"), ..) => blocks.push(Block::LabLine(line)),
            _ => {}
        }
    }
    blocks
}

/// Terminals of a student.
struct Terminals {
    addresses: [SocketAddr; ADDRESSES.len()],
    lab: Option<Process>,
    programs: Vec<Process>,
    shell: Shell,
}

impl Terminals {
    fn open() -> Self {
        let ports = ADDRESSES.map(|_| ReservedPort::bind());
        let addresses = ports.map(ReservedPort::release);
        let shell = Shell::start(addresses[1]);
        Self { addresses, lab: None, programs: Vec::new(), shell }
    }

    fn run(&mut self, text: &str) {
        for block in blocks(text) {
            match block {
                Block::Command(command, output) if is_program(command) => {
                    assert!(output.is_empty(), "{command}: its output belongs into a block `text`");
                    self.start(command);
                }
                Block::Command(command, output) => self.check(command, &output),
                Block::LabLine(expected) => {
                    let lab = self.lab.as_ref().expect("a lab before the block `text`");
                    let matches = |line: &str| is_match(expected, &self.on_page(line));
                    lab.wait_for_stdout_line(expected, matches);
                }
            }
        }
    }

    /// Starts a program. Another lab is stopped before.
    fn start(&mut self, command: &str) {
        let command = self.on_machine(command).replace("cargo run", "exec cargo run");
        let environment = ADDRESSES.iter().zip(self.addresses);
        let program = ProcessBuilder::new("bash")
            .args(["-c", &built(&command)])
            .envs(environment.map(|((_, variable), address)| (*variable, address.to_string())));
        if command.contains("--example") {
            self.programs.push(program.serve());
        } else {
            self.stop_lab();
            let lab = self.lab.insert(program.start());
            lab.wait_for_stdout_line("the banner", |line| line.contains("ends it all"));
        }
    }

    fn stop_lab(&mut self) {
        if let Some(lab) = self.lab.take() {
            lab.interrupt();
            let exit = lab.wait();
            assert_eq!(exit.code, Some(0), "{exit:#?}");
        }
    }

    /// Runs a command and compares what it prints.
    fn check(&mut self, command: &str, expected: &[&str]) {
        let is_read = command.contains("/metrics") || command.contains(":16686/");
        let deadline = Instant::now() + TEST_TIMEOUT;
        loop {
            let output = self.shell.run(&built(&self.on_machine(command)));
            let output: Vec<_> = output.iter().map(|line| self.on_page(line)).collect();
            if are_matches(expected, &output) {
                return;
            }
            let is_last = !is_read || Instant::now() > deadline;
            assert!(
                !is_last,
                "$ {command}\nprints\n{}\nexpected\n{}",
                output.join("\n"),
                expected.join("\n")
            );
        }
    }

    /// Replaces the addresses and process ids of a page with those of this run.
    fn on_machine(&self, command: &str) -> String {
        let mut command = command.to_owned();
        for ((address, _), actual) in ADDRESSES.iter().zip(self.addresses) {
            command = command.replace(address, &actual.to_string());
        }
        for line in self.lab.iter().flat_map(Process::stdout) {
            if let [label @ ("A" | "B"), _, "pid", pid, ..] =
                line.split_whitespace().collect::<Vec<_>>()[..]
            {
                command = command.replace(&format!("PID_{label}"), pid);
            }
        }
        command
    }

    /// Replaces the addresses of this run with those of a page.
    fn on_page(&self, line: &str) -> String {
        let mut line = line.to_owned();
        for ((address, _), actual) in ADDRESSES.iter().zip(self.addresses) {
            let (ip, port) = address.split_once(':').unwrap();
            line = line
                .replace(&actual.ip().to_string(), ip)
                .replace(&actual.port().to_string(), port);
        }
        line
    }
}

/// Returns `true` for a command that runs until Ctrl-C.
fn is_program(command: &str) -> bool {
    command.contains("cargo run") && !command.contains(" -- ")
}

/// Replaces `cargo run` with the executables that cargo has built.
fn built(command: &str) -> String {
    let lab = Path::new(env!("CARGO_BIN_EXE_lab"));
    let examples = lab.with_file_name("examples/");
    command
        .replace("cargo run --example ", examples.to_str().unwrap())
        .replace("cargo run -- ", &format!("{} ", lab.display()))
        .replace("cargo run", lab.to_str().unwrap())
}

fn are_matches(expected: &[&str], lines: &[String]) -> bool {
    match (expected, lines) {
        ([], lines) => lines.is_empty(),
        (["…", rest @ ..], lines) => {
            (0..=lines.len()).any(|skipped| are_matches(rest, &lines[skipped..]))
        }
        ([first, rest @ ..], [line, lines @ ..]) => {
            is_match(first, line) && are_matches(rest, lines)
        }
        _ => false,
    }
}

fn is_match(expected: &str, line: &str) -> bool {
    let Some((start, rest)) = expected.split_once('…') else { return expected == line };
    let Some(line) = line.strip_prefix(start) else { return false };
    line.char_indices().map(|(at, _)| &line[at..]).chain([""]).any(|line| is_match(rest, line))
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
            .current_dir(root())
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
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Self { process, stdin, lines }
    }

    /// Runs a command and returns the lines that it prints.
    fn run(&mut self, command: &str) -> Vec<String> {
        writeln!(self.stdin, "{command}\nprintf '\\n%s\\n' '{END}'").unwrap();
        let next = || {
            self.lines
                .recv_timeout(TEST_TIMEOUT)
                .unwrap_or_else(|_| panic!("$ {command}\ndoes not end"))
        };
        let mut lines: Vec<_> =
            std::iter::repeat_with(next).take_while(|line| line != END).collect();
        // The line break before END.
        if lines.last().is_some_and(String::is_empty) {
            lines.pop();
        }
        lines
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Returns `true` if the commands of the pages can run.
fn has_tools(tools: &[&str]) -> bool {
    let is_missing =
        |tool: &&&str| Command::new(tool).arg("--version").stdout(Stdio::null()).status().is_err();
    let missing = tools.iter().find(is_missing);
    missing.inspect(|tool| println!("skipped: {tool} is not installed")).is_none()
}

#[test]
fn page_quotes_service_c() {
    let code = format!("\n```rust\n{}```\n", page("lab/examples/service_c.rs"));
    assert!(page("docs/exercises.md").contains(&code), "{code}");
}

#[test]
fn exercises_print_their_answers() {
    let page = page("docs/exercises.md");
    let exercises = exercises(&page);
    assert_eq!(exercises.len(), 10);
    let is_runnable = has_tools(&["bash", "curl"]);
    thread::scope(|scope| {
        for (title, text) in exercises {
            let [preparation, _, _, commands, solution] = parts(title, text)[..] else {
                panic!("{title}")
            };
            let typed = |text| -> Vec<_> {
                let blocks = blocks(text).into_iter();
                blocks
                    .filter_map(|block| {
                        if let Block::Command(command, _) = block { Some(command) } else { None }
                    })
                    .collect()
            };
            assert_eq!(
                typed(commands),
                typed(solution),
                "{title}: the solution has other commands"
            );
            if is_runnable {
                thread::Builder::new()
                    .name(title.to_owned())
                    .spawn_scoped(scope, move || {
                        let mut terminals = Terminals::open();
                        terminals.run(preparation);
                        terminals.run(solution);
                        terminals.stop_lab();
                    })
                    .unwrap();
            }
        }
    });
}
