//! `cargo xtask soak`: full load with kills, restarts, swaps and pauses at random, for as long as one likes.

use crate::tree;

/// How long.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Minutes.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// What happens when; without it something else each time.
    #[arg(long)]
    seed: Option<u64>,
}

/// Builds what is needed, and runs it.
///
/// # Errors
/// If a total is not exact, or something grows.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    crate::plugins::run()?;
    tree::run(tree::cargo().args(["build", "--package", "brolly", "--package", "brolly-tests", "--bins"]))?;
    let mut soak = std::process::Command::new(tree::binary("brolly-soak"));
    soak.arg(arguments.minutes.to_string());
    soak.args(arguments.seed.map(|seed| seed.to_string()));
    tree::run(&mut soak)
}
