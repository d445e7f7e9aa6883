//! Which compiler builds guests: rustup's if its wasm32 library is there or can be fetched,
//! otherwise Debian's `rustc-web` with a standard library built on the spot.
//!
//! `BROLLY_GUEST_TOOLCHAIN=rustup` or `debian` picks one instead of trying.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail};

use crate::{debian, tree};

/// What guests are compiled for.
pub(crate) const TARGET: &str = "wasm32-unknown-unknown";

/// The switch that picks a compiler.
const SWITCH: &str = "BROLLY_GUEST_TOOLCHAIN";

/// What Debian's compiler needs to build guests.
const DEBIAN_PACKAGES: [&str; 4] = ["rustc-web", "cargo-web", "rust-web-src", "libstd-rust-web-dev"];

/// A compiler for guests that is there and ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Toolchain {
    /// The one that builds the host, with the standard library for wasm32.
    Rustup,
    /// Debian's.
    Debian,
}

impl Toolchain {
    /// Finds a compiler, installing what is missing where that is possible.
    ///
    /// # Errors
    /// If there is none, with what the reader can do about it.
    pub(crate) fn find() -> anyhow::Result<Self> {
        match env::var(SWITCH).as_deref() {
            Ok("rustup") if rustup_is_ready() => Ok(Toolchain::Rustup),
            Ok("rustup") => {
                bail!(
                    "{SWITCH}=rustup, but the standard library for {TARGET} is not there and cannot be fetched"
                )
            }
            Ok("debian") => install_debian().map(|()| Toolchain::Debian),
            Ok(other) if !other.is_empty() => bail!("{SWITCH} is {other:?}; it may be rustup or debian"),
            _ if rustup_is_ready() => Ok(Toolchain::Rustup),
            _ => install_debian().map(|()| Toolchain::Debian),
        }
    }

    /// A `cargo build` for guests, in the workspace's folder, without what to build.
    ///
    /// # Errors
    /// If the linker cannot be found.
    pub(crate) fn cargo_build(self) -> anyhow::Result<Command> {
        let mut command = match self {
            Toolchain::Rustup => tree::cargo(),
            Toolchain::Debian => {
                let mut command = Command::new("/usr/bin/cargo");
                command.current_dir(tree::root());
                command.env("RUSTC", "/usr/bin/rustc").env("PATH", path_with_linker()?);
                // Building the standard library is an unstable feature of a stable compiler.
                command.env("RUSTC_BOOTSTRAP", "1").env_remove("RUSTUP_TOOLCHAIN");
                command
            }
        };
        // Flags meant for the host do not suit wasm, and would change the plugins' digests.
        for name in ["RUSTFLAGS", "RUSTC_WRAPPER", "CARGO_BUILD_TARGET", "RUSTDOCFLAGS"] {
            command.env_remove(name);
        }
        command.env("CARGO_ENCODED_RUSTFLAGS", remapped_paths());
        command.args(["build", "--target", TARGET, "--profile", "guest"]);
        if self == Toolchain::Debian {
            command.args(["-Z", "build-std=std,panic_abort"]);
        }
        Ok(command)
    }
}

/// Keeps the paths of this machine out of the plugins, so that equal sources give equal digests.
fn remapped_paths() -> String {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| env::home_dir().map(|home| home.join(".cargo")));
    let pairs = [(Some(tree::root()), "brolly"), (home, "cargo")];
    let flags = pairs
        .iter()
        .filter_map(|(path, name)| Some(format!("--remap-path-prefix={}={name}", path.as_ref()?.display())));
    flags.collect::<Vec<_>>().join("\u{1f}")
}

/// Whether the compiler that builds the host has the library for wasm32; tries to fetch it.
fn rustup_is_ready() -> bool {
    if has_wasm_library() {
        return true;
    }
    eprintln!("> rustup target add {TARGET}");
    tree::succeeds(Command::new("rustup").args(["target", "add", TARGET]).current_dir(tree::root()))
        && has_wasm_library()
}

fn has_wasm_library() -> bool {
    rustc_prints(&["--print", "target-libdir", "--target", TARGET])
        .is_ok_and(|folder| std::fs::read_dir(folder).is_ok_and(|mut files| files.next().is_some()))
}

fn rustc_prints(arguments: &[&str]) -> anyhow::Result<String> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc)
        .args(arguments)
        .current_dir(tree::root())
        .output()
        .context("cannot start rustc")?;
    if !output.status.success() {
        bail!("rustc {} failed", arguments.join(" "));
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// `PATH` with the folder of `rust-lld`, which comes with rustup's compiler and not with Debian's.
fn path_with_linker() -> anyhow::Result<std::ffi::OsString> {
    let version = rustc_prints(&["-vV"])?;
    let host =
        version.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc -vV names no host")?;
    let folder =
        Path::new(&rustc_prints(&["--print", "sysroot"])?).join("lib/rustlib").join(host).join("bin");
    let present = env::var_os("PATH").unwrap_or_default();
    Ok(env::join_paths(std::iter::once(folder).chain(env::split_paths(&present)))?)
}

fn install_debian() -> anyhow::Result<()> {
    let help = || {
        format!(
            "there is no compiler for plugins; `rustup target add {TARGET}` fetches one where the network allows it"
        )
    };
    debian::install(&DEBIAN_PACKAGES).with_context(help)
}
