//! Copies the page of Jaeger UI, compresses its files and writes a table of them for `include!`.

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::{Compression, write::GzEncoder};
use serde_json::Value;

const PACKAGE: &str = "otlp-embedded";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=Cargo.toml");

    let ui = package_folder()?.join("jaeger-ui");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    fs::copy(ui.join("LICENSE"), out.join("jaeger-ui-license.txt"))?;
    fs::copy(ui.join("build/index.html"), out.join("index.html"))?;
    embed(&ui.join("build/static"), &out)
}

/// Returns the folder into which cargo unpacked the package that contains Jaeger UI.
///
/// `cargo metadata` downloads the package if necessary, because cargo does not download a package
/// that no target uses. After `cargo fetch` or `cargo vendor` it needs no network.
fn package_folder() -> Result<PathBuf, Box<dyn Error>> {
    let output = Command::new(std::env::var("CARGO")?)
        .args(["metadata", "--format-version=1", "--locked"])
        .output()?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        return Err(format!(
            "cannot find the package {PACKAGE}, which contains Jaeger UI; run `cargo fetch` with a \
             network.\n{error}"
        )
        .into());
    }
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let mut packages = metadata["packages"].as_array().into_iter().flatten();
    packages
        .find(|package| package["name"] == PACKAGE)
        .and_then(|package| Path::new(package["manifest_path"].as_str()?).parent())
        .map(Path::to_path_buf)
        .ok_or_else(|| format!("`cargo metadata` lists no package {PACKAGE}").into())
}

/// Writes the compressed files of `folder` and their table `assets.rs` to `out`.
fn embed(folder: &Path, out: &Path) -> Result<(), Box<dyn Error>> {
    let entries = fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    let mut files: Vec<PathBuf> = entries.iter().map(fs::DirEntry::path).collect();
    files.sort();
    let mut table = String::from("&[\n");
    for file in files {
        let name = file.file_name().unwrap_or_default().display();
        let compressed = out.join(format!("{name}.gz"));
        let mut gzip = GzEncoder::new(fs::File::create(&compressed)?, Compression::default());
        gzip.write_all(&fs::read(&file)?)?;
        gzip.finish()?;
        writeln!(table, "(\"/static/{name}\", include_bytes!({compressed:?})),")?;
    }
    table.push(']');
    fs::write(out.join("assets.rs"), table)?;
    Ok(())
}
