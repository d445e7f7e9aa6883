//! `cargo xtask scale`: how lists answer when there is much of everything.

use crate::tree;

/// How much of everything.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Build with optimisations; without, the build that tests use.
    #[arg(long)]
    release: bool,
    /// Topics; each has three queues, each with a subscription.
    #[arg(default_value_t = 1_000)]
    topics: usize,
    /// Dead letters.
    #[arg(default_value_t = 1_000_000)]
    dead_letters: usize,
    /// Times that each list is asked for.
    #[arg(default_value_t = 40)]
    rounds: usize,
}

/// Builds what is needed, and measures.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    crate::plugins::run()?;
    let release = arguments.release.then_some("--release");
    let packages = ["--package", "brolly", "--package", "brolly-tests", "--bins"];
    tree::run(tree::cargo().arg("build").args(release).args(packages))?;
    let folder = if arguments.release { "release" } else { "debug" };
    let mut measure = std::process::Command::new(tree::built(folder, "brolly-scale"));
    let numbers = [arguments.topics, arguments.dead_letters, arguments.rounds];
    tree::run(measure.args(numbers.map(|number| number.to_string())))
}
