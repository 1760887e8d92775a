//! Peers: the programs `bare` and `typical` of another workspace. They serve service A as `PROGRAM a PORT` and
//! service B as `PROGRAM b PORT URL_OF_A`, and log no address.

use std::env;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use testkit::{ProcessBuilder, Stdout, wait_until};

use crate::interleave::Candidate;
use crate::services::{App, Variant};

/// Programs that have been built.
#[derive(Debug)]
pub(crate) struct Peers(PathBuf);

impl Peers {
    /// Builds the programs of `workspace` in the target directory of this program.
    pub(crate) fn build(workspace: &Path) -> Result<Self> {
        let executable = env::current_exe()?;
        let target = executable.ancestors().nth(2).context("target directory")?.join("peers");
        let status = Command::new("cargo")
            .args(["build", "--release", "--locked", "--manifest-path"])
            .arg(workspace.join("Cargo.toml"))
            .arg("--target-dir")
            .arg(&target)
            .status()?;
        ensure!(status.success(), "cargo build: {status}");
        Ok(Self(target.join("release")))
    }

    /// Starts the program `variant` and waits until it accepts connections.
    pub(crate) fn start(
        &self,
        variant: Variant,
        app: App,
        service_a_url: &str,
        endpoint: &str,
    ) -> Result<Candidate> {
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let builder = ProcessBuilder::new(self.0.join(variant.name))
            .args([&app.name(), &address.port().to_string(), service_a_url])
            .stdout(Stdout::DiscardAfterFirstLine);
        let process = variant.configure(builder, endpoint).start();
        wait_until("the peer accepts connections", || TcpStream::connect(address).is_ok());
        Ok(Candidate::with_url(variant, process, format!("http://{address}")))
    }
}
