//! Cargo's tools that are not part of it: found, or installed from where crates come from.

use std::process::Command;

use crate::tree;

/// Whether `cargo NAME` can be used; installs it if it is not there. It takes minutes the first time.
pub(crate) fn provide(name: &str) -> bool {
    let is_there = || tree::succeeds(tree::cargo().args([name, "--version"]));
    if is_there() {
        return true;
    }
    let package = format!("cargo-{name}");
    let mut install: Command = tree::cargo();
    install.args(["install", "--locked", &package]);
    if let Err(error) = tree::run(&mut install) {
        println!("skipped: {package} is not installed and cannot be: {error:#}");
        return false;
    }
    is_there()
}
