//! `cargo xtask sim`: lives of the host on simulated time, one for each seed.

use crate::tree;

/// Which lives; `tests/sim` knows the rest.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// The first of them; alone, its story is told.
    #[arg(long)]
    seed: Option<u64>,
    /// Events of a life.
    #[arg(long, default_value_t = 300)]
    events: u32,
}

/// Builds and runs them.
///
/// # Errors
/// If a life broke what must hold.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let Arguments { seeds, seed, events } = arguments;
    let mut command = tree::cargo();
    command.args(["run", "--quiet", "--package", "brolly-sim", "--"]);
    command.args(["--seeds", &seeds.to_string(), "--events", &events.to_string()]);
    if let Some(seed) = seed {
        command.args(["--seed", &seed.to_string()]);
    }
    tree::run(&mut command)
}
