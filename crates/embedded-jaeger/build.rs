//! Compresses the files of Jaeger UI and writes a table of them for `include!`.

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::{Compression, write::GzEncoder};
use serde_json::Value;

const PACKAGE: &str = "otlp-embedded";
const VERSION: &str = "0.0.2";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=Cargo.toml");

    let ui = package_folder()?.join("jaeger-ui");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    embed(&ui.join("build"), &out)?;
    fs::copy(ui.join("LICENSE"), out.join("jaeger-ui-license.txt"))?;
    Ok(())
}

/// Returns the folder into which cargo unpacked the package that contains Jaeger UI.
///
/// The first attempt is offline, so that a build after `cargo fetch` or `cargo vendor` needs no
/// network. The second downloads the package, because cargo does not download a package that no
/// target uses.
fn package_folder() -> Result<PathBuf, Box<dyn Error>> {
    let metadata = metadata("--frozen").or_else(|offline| {
        metadata("--locked").map_err(|online| {
            format!(
                "cannot find the package {PACKAGE} {VERSION}, which contains Jaeger UI; run \
                 `cargo fetch` with a network.\noffline: {offline}\nonline: {online}"
            )
        })
    })?;
    metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|package| package["name"] == PACKAGE && package["version"] == VERSION)
        .and_then(|package| Path::new(package["manifest_path"].as_str()?).parent())
        .map(Path::to_path_buf)
        .ok_or_else(|| format!("`cargo metadata` lists no package {PACKAGE} {VERSION}").into())
}

fn metadata(lock_flag: &str) -> Result<Value, Box<dyn Error>> {
    let manifest = Path::new(&std::env::var("CARGO_MANIFEST_DIR")?).join("Cargo.toml");
    let output = Command::new(std::env::var("CARGO")?)
        .args(["metadata", "--format-version=1", "--manifest-path"])
        .arg(manifest)
        .arg(lock_flag)
        .output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Writes the compressed files of `folder` and their table `assets.rs` to `out`.
fn embed(folder: &Path, out: &Path) -> Result<(), Box<dyn Error>> {
    let mut files = vec![("index.html".to_owned(), folder.join("index.html"))];
    for entry in fs::read_dir(folder.join("static"))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        files.push((format!("static/{name}"), entry.path()));
    }
    files.sort();

    let mut table = String::from("&[\n");
    for (index, (name, path)) in files.iter().enumerate() {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(&fs::read(path)?)?;
        let compressed = out.join(format!("asset-{index}.gz"));
        fs::write(&compressed, gzip.finish()?)?;
        writeln!(
            table,
            "Asset {{ path: {name:?}, gzip: include_bytes!({:?}) }},",
            compressed.display().to_string()
        )?;
    }
    table.push(']');
    fs::write(out.join("assets.rs"), table)?;
    Ok(())
}
