//! `cargo xtask fuzz [TARGET]`: feeds each reader of bytes from outside with what nobody would send on purpose.
//!
//! The targets are `tests/fuzz/targets`, each with a few inputs in `tests/fuzz/corpus` to begin with. What libFuzzer
//! finds worth keeping on the way goes to `target/fuzz`, and so does an input that breaks something.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, Output},
    sync::Mutex,
    thread,
};

use anyhow::{Context, bail};

use crate::{tools, tree};

/// Bytes of an input; more only makes it slower to find something.
const MAX_LEN: &str = "-max_len=16384";
/// Memory of one target, in MiB. The sandbox only reserves address space.
const MEMORY: &str = "-rss_limit_mb=4096";
/// Seconds that one input may take. The largest takes well below one.
const PATIENCE: &str = "-timeout=20";

/// Which targets, and for how long.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Their names; none means all.
    targets: Vec<String>,
    /// Seconds for each.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

/// Builds the targets, runs them two at a time, and prints a table.
///
/// # Errors
/// If an input broke something; the message names its file and how to run it again.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if !tools::provide("fuzz") {
        return Ok(());
    }
    let targets = chosen(&arguments.targets)?;
    tree::run(&mut cargo_fuzz("build"))?;
    let waiting = Mutex::new(targets.clone());
    let outcomes = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(target) = waiting.lock().ok().and_then(|mut waiting| waiting.pop()) {
                    let outcome = fuzz(&target, arguments.seconds);
                    if let Ok(mut outcomes) = outcomes.lock() {
                        outcomes.insert(target, outcome);
                    }
                }
            });
        }
    });
    println!("| target | inputs | edges covered | seconds |\n| --- | --- | --- | --- |");
    let mut broken = Vec::new();
    for (target, outcome) in outcomes.into_inner().unwrap_or_default() {
        match outcome {
            Ok(Ran { inputs, edges, seconds }) => println!("| {target} | {inputs} | {edges} | {seconds} |"),
            Err(why) => {
                println!("| {target} | broken | | |");
                broken.push(format!("{target}: {why:#}"));
            }
        }
    }
    if broken.is_empty() { Ok(()) } else { bail!(broken.join("\n")) }
}

/// What a target did, in libFuzzer's own words.
struct Ran {
    inputs: String,
    edges: String,
    seconds: String,
}

fn chosen(names: &[String]) -> anyhow::Result<Vec<String>> {
    let folder = tree::root().join("tests/fuzz/targets");
    let mut all = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
        all.extend(entry?.path().file_stem().map(|stem| stem.to_string_lossy().into_owned()));
    }
    all.sort_unstable_by(|a, b| b.cmp(a));
    if let Some(unknown) = names.iter().find(|name| !all.contains(name)) {
        bail!("there is no target {unknown}; there are {}", all.join(", "));
    }
    all.retain(|name| names.is_empty() || names.contains(name));
    Ok(all)
}

/// Without a sanitizer, which would take a nightly compiler: what the targets look for are panics, wrong answers and
/// endless work in code without `unsafe`.
fn cargo_fuzz(what: &str) -> Command {
    let mut command = tree::cargo();
    command.args(["fuzz", what, "--fuzz-dir", "tests/fuzz", "--sanitizer", "none"]);
    command.arg("--target-dir").arg(tree::target("fuzz/build"));
    command
}

fn fuzz(target: &str, seconds: u32) -> anyhow::Result<Ran> {
    let (found, broken) =
        (tree::target("fuzz/corpus").join(target), tree::target("fuzz/broken").join(target));
    for folder in [&found, &broken] {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let mut command = cargo_fuzz("run");
    // What is new goes to the first folder; the others are only read.
    command.arg(target).arg(&found).arg(tree::root().join("tests/fuzz/corpus").join(target));
    command.args(["--", MAX_LEN, MEMORY, PATIENCE, "-print_final_stats=1"]);
    command.arg(format!("-max_total_time={seconds}")).arg(format!("-artifact_prefix={}/", broken.display()));
    let line = tree::show(&command);
    eprintln!("> {line}");
    let output = command.output().with_context(|| format!("cannot start {line}"))?;
    read(&output, target, &broken)
}

fn read(output: &Output, target: &str, broken: &Path) -> anyhow::Result<Ran> {
    let text = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let end: Vec<&str> = text.lines().rev().take(60).collect();
        let end: Vec<&str> = end.into_iter().rev().collect();
        bail!(
            "{}\nthe input is in {}; to run it again: cargo fuzz run --fuzz-dir tests/fuzz --sanitizer none --target-dir target/fuzz/build {target} FILE",
            end.join("\n"),
            broken.display()
        );
    }
    let after = |word: &str| {
        let rest = text.rsplit_once(word).map(|(_, rest)| rest.trim_start());
        rest.and_then(|rest| rest.split_whitespace().next()).unwrap_or("?").to_owned()
    };
    Ok(Ran {
        inputs: after("stat::number_of_executed_units:"),
        edges: after(" cov: "),
        seconds: after(" runs in "),
    })
}
