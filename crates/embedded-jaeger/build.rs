//! Copies the page of Jaeger UI, repairs and compresses its files and writes a table of them for `include!`.

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::{Compression, write::GzEncoder};
use serde_json::Value;

const PACKAGE: &str = "otlp-embedded";

/// Changes to the scripts of the UI, of which each has one. The UI adds circular references to the traces that
/// a search has found. Without a copy, the button "Download Results" cannot write their JSON.
const CHANGES: [(&str, &str); 2] = [
    (
        "const W=d.data,z=W.map(transformTraceData)",
        "const W=d.data,z=JSON.parse(JSON.stringify(W)).map(transformTraceData)",
    ),
    (
        "const r=t.data,o=r.map(transformTraceData)",
        "const r=t.data,o=JSON.parse(JSON.stringify(r)).map(transformTraceData)",
    ),
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=Cargo.toml");

    let ui = package_folder()?.join("jaeger-ui");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    fs::copy(ui.join("LICENSE"), out.join("jaeger-ui-license.txt"))?;
    let mut page = fs::read_to_string(ui.join("build/index.html"))?;
    embed(&ui.join("build/static"), &out, &mut page)?;
    Ok(fs::write(out.join("index.html"), page)?)
}

/// Returns the folder into which cargo unpacked the package that contains Jaeger UI.
///
/// `cargo metadata` downloads the package if necessary. It would download the packages of all platforms
/// without `--filter-platform`. After `cargo vendor`, or `cargo fetch` without a target, it needs no network.
fn package_folder() -> Result<PathBuf, Box<dyn Error>> {
    let output = Command::new(std::env::var("CARGO")?)
        .args(["metadata", "--format-version=1", "--locked"])
        .args(["--filter-platform", &std::env::var("TARGET")?])
        .env("CARGO_ENCODED_RUSTFLAGS", "--cfg=jaeger_ui")
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

/// Writes the compressed files of `folder` and their table `assets.rs` to `out`. A changed file gets another
/// name in `page`, because browsers cache files by their name.
fn embed(folder: &Path, out: &Path, page: &mut String) -> Result<(), Box<dyn Error>> {
    let entries = fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    let mut files: Vec<PathBuf> = entries.iter().map(fs::DirEntry::path).collect();
    files.sort();
    let mut table = String::from("&[\n");
    for file in files {
        let mut name = file.file_name().unwrap_or_default().display().to_string();
        let mut contents = fs::read(&file)?;
        if name.starts_with("index-") && name.ends_with(".js") {
            contents = change(&String::from_utf8(contents)?)?.into_bytes();
            let new_name = format!("changed-{name}");
            *page = page.replace(&name, &new_name);
            name = new_name;
        }
        let compressed = out.join(format!("{name}.gz"));
        let mut gzip = GzEncoder::new(fs::File::create(&compressed)?, Compression::default());
        gzip.write_all(&contents)?;
        gzip.finish()?;
        writeln!(table, "(\"/static/{name}\", include_bytes!({compressed:?})),")?;
    }
    table.push(']');
    fs::write(out.join("assets.rs"), table)?;
    Ok(())
}

/// Applies the change that fits the script.
fn change(script: &str) -> Result<String, Box<dyn Error>> {
    let changes = CHANGES.iter().filter(|(from, _)| script.matches(from).count() == 1);
    let changed = changes.map(|(from, to)| script.replace(from, to)).next();
    changed.ok_or_else(|| "a script of Jaeger UI has another content than expected".into())
}
