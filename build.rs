//! Shared by every package of the workspace: sets libtorch's folder as the rpath of binaries, so that they
//! start without `LD_LIBRARY_PATH`, and links the GPU library if there is one. For the binary, records the
//! commit and libtorch's version.

use std::fs;
use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let lib = std::env::var("DEP_TCH_LIBTORCH_LIB").ok();
    if std::env::var("CARGO_PKG_NAME").as_deref() == Ok("align") {
        println!("cargo:rustc-env=ALIGN_COMMIT={}", commit());
        println!("cargo:rustc-env=ALIGN_LIBTORCH={}", lib.as_deref().map_or("unknown".to_owned(), libtorch_version));
    }
    let Some(lib) = lib else { return };
    println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
    if Path::new(&lib).join("libtorch_cuda.so").exists() {
        println!("cargo:rustc-link-arg=-Wl,--no-as-needed,-ltorch_cuda,-ltorch,--as-needed");
    }
}

fn commit() -> String {
    let git = |args: &[&str]| {
        let out = Command::new("git").args(args).output().ok().filter(|out| out.status.success())?;
        Some(String::from_utf8_lossy(&out.stdout).trim().to_owned())
    };
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|log| Path::new(log).exists()) {
        println!("cargo:rerun-if-changed={log}");
    }
    git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or("unknown".to_owned())
}

/// From `build-version` (libtorch's own archives) or `version.py` (a Python package).
fn libtorch_version(lib: &str) -> String {
    let root = Path::new(lib).join("..");
    let from_package = || {
        let text = fs::read_to_string(root.join("version.py")).ok()?;
        let line = text.lines().find(|line| line.starts_with("__version__"))?;
        Some(line.split('\'').nth(1)?.to_owned())
    };
    let version = fs::read_to_string(root.join("build-version")).ok().or_else(from_package);
    version.map_or("unknown".to_owned(), |version| version.trim().to_owned())
}
