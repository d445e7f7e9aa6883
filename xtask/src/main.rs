//! One command for everything a developer does: `cargo xtask plugins | test | check | demo | bench | scale`
//! and what shows that nothing is lost: `sim | fuzz | planted | soak | fixture | deny | sbom`.
//!
//! One file per command. It knows the layout of the tree and the command line of `brolly`; it
//! links to no other crate of the workspace, so that it builds in seconds.

mod bench;
mod check;
mod debian;
mod demo;
mod deny;
mod fixture;
mod fuzz;
mod planted;
mod plugins;
mod scale;
mod servers;
mod signals;
mod sim;
mod soak;
mod test;
mod toolchain;
mod tools;
mod tree;

use std::process::ExitCode;

use clap::Parser;

/// Everything a developer does with Brolly.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", version, disable_help_subcommand = true)]
enum Command {
    /// Build the sample plugins to target/plugins/NAME.wasm and those for tests to target/test-plugins.
    Plugins,
    /// Build plugins and binary, and run all tests.
    Test(test::Arguments),
    /// What CI runs: format, lints, tests and documentation.
    Check,
    /// Run Brolly with the sample plugins on this machine and feed it real orders.
    Demo(demo::Arguments),
    /// Run the benchmarks, all or those named; prints a table and writes target/bench/results.json.
    Bench(bench::Arguments),
    /// Fill a host with much of everything and measure how its lists answer.
    Scale(scale::Arguments),
    /// Live through power cuts on simulated time, one life for each seed.
    Sim(sim::Arguments),
    /// Feed what reads bytes from outside with inputs that nobody would send on purpose.
    Fuzz(fuzz::Arguments),
    /// Plant deliberate bugs in a copy of the tree and show which tests find them.
    Planted(planted::Arguments),
    /// Full load with kills, restarts, swaps and pauses at random; fails when something grows.
    Soak(soak::Arguments),
    /// Pack the data directory that this version leaves, for the tests of later versions.
    Fixture,
    /// Hold what comes from outside to deny.toml: licences, bans, duplicates, sources, advisories.
    Deny,
    /// Write what the binary is made of to target/sbom/brolly.cdx.json.
    Sbom,
}

fn main() -> ExitCode {
    let result = match Command::parse() {
        Command::Plugins => plugins::run(),
        Command::Test(arguments) => test::run(&arguments),
        Command::Check => check::run(),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Scale(arguments) => scale::run(&arguments),
        Command::Sim(arguments) => sim::run(&arguments),
        Command::Fuzz(arguments) => fuzz::run(&arguments),
        Command::Planted(arguments) => planted::run(&arguments),
        Command::Soak(arguments) => soak::run(&arguments),
        Command::Fixture => fixture::run(),
        Command::Deny => deny::run(),
        Command::Sbom => deny::sbom(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
