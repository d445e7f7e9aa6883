//! `cargo xtask sim`: lives so many seeds, and says which of them broke what.

use std::time::Instant;

use brolly_sim::Simulation;
use clap::Parser;

/// Which lives.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// The first of them; alone, its story is told.
    #[arg(long)]
    seed: Option<u64>,
    /// Events of a life.
    #[arg(long, default_value_t = 300)]
    events: u32,
    /// Stop at the first that breaks something.
    #[arg(long)]
    first: bool,
}

fn main() -> std::process::ExitCode {
    let Arguments { seeds, seed, events, first: stop } = Arguments::parse();
    let simulation = Simulation::new();
    let (first, seeds) = (seed.unwrap_or(0), if seed.is_some() && seeds == 10_000 { 1 } else { seeds });
    let (began, mut broken, mut cuts, mut handled) = (Instant::now(), 0, 0, 0);
    for seed in first..first + seeds {
        let life = simulation.live(seed, events);
        cuts += life.cuts;
        handled += life.handled;
        if seeds == 1 {
            life.trace.iter().for_each(|line| println!("{line}"));
        }
        if let Some(what) = life.broken {
            broken += 1;
            println!("seed {seed}: {what}");
            if stop {
                break;
            }
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{seeds} lives of {events} events in {seconds:.0} s: {handled} attempts, {cuts} power cuts, {broken} broken"
    );
    std::process::ExitCode::from(u8::from(broken > 0))
}
