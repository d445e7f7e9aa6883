//! `cargo xtask bench [IDS]`: the benchmarks, in a release build.

use std::process::Command;

use crate::tree;

/// Which benchmarks.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Identifiers such as P1 P5, none means all; and engines of the store, such as sled redb.
    ids: Vec<String>,
}

/// Builds and runs them. The plugins and the binary are built first: the benchmarks measure with the real ones.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    crate::plugins::run()?;
    tree::run(tree::cargo().args([
        "build",
        "--release",
        "--package",
        "brolly",
        "--package",
        "brolly-bench",
    ]))?;
    let mut bench = Command::new(tree::built("release", "brolly-bench"));
    tree::run(bench.current_dir(tree::root()).args(&arguments.ids))
}
