//! Packages of Debian, installed where that is possible: as root, with `apt-get`.

use std::process::Command;

use anyhow::{Context, bail};

use crate::tree;

/// Installs what is missing of these packages.
///
/// # Errors
/// If that is not possible, with what the reader can do about it.
pub(crate) fn install(packages: &[&str]) -> anyhow::Result<()> {
    if tree::succeeds(Command::new("dpkg").arg("-s").args(packages)) {
        return Ok(());
    }
    let help = format!(
        "on Debian, as root, `apt-get update && apt-get install --no-install-recommends {}` installs it",
        packages.join(" ")
    );
    if !is_root() || !tree::succeeds(Command::new("apt-get").arg("--version")) {
        bail!(help);
    }
    // An update fails if any one source cannot be reached; what we want may come from another.
    let updated = tree::run(apt_get().args(["update", "-q"]));
    let mut install = apt_get();
    install.args(["install", "-q", "-y", "--no-install-recommends"]).args(packages);
    tree::run(&mut install).map_err(|error| updated.err().unwrap_or(error)).context(help)
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
