//! One command for everything a developer does: `cargo xtask plugins | test | check | demo | bench | scale`.
//!
//! One file per command. It knows the layout of the tree and the command line of `brolly`; it
//! links to no other crate of the workspace, so that it builds in seconds.

mod bench;
mod check;
mod debian;
mod demo;
mod plugins;
mod scale;
mod servers;
mod signals;
mod test;
mod toolchain;
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
}

fn main() -> ExitCode {
    let result = match Command::parse() {
        Command::Plugins => plugins::run(),
        Command::Test(arguments) => test::run(&arguments),
        Command::Check => check::run(),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Scale(arguments) => scale::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
