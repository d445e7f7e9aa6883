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

use crate::tree;

/// Bytes of an input; more only makes it slower to find something.
const MAX_LEN: &str = "-max_len=16384";
/// Memory of one target, in MiB. The sandbox only reserves address space.
const MEMORY: &str = "-rss_limit_mb=4096";
/// Seconds that one input may take. The largest takes well below one.
const PATIENCE: &str = "-timeout=20";

/// Seconds for each target, where nobody says otherwise.
const MINUTE: u32 = 60;

/// Which targets, and for how long.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Their names; none means all.
    targets: Vec<String>,
    /// Seconds for each.
    #[arg(long, default_value_t = MINUTE)]
    seconds: u32,
}

impl Arguments {
    /// All targets, for as long as a check has.
    pub(crate) fn of_a_check() -> Self {
        Self { targets: Vec::new(), seconds: MINUTE }
    }
}

/// Builds the targets, runs them two at a time, and prints a table.
///
/// # Errors
/// If an input broke something; the message names its file and how to run it again.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let targets = chosen(&arguments.targets)?;
    if !tree::succeeds(Command::new("c++").arg("--version")) {
        println!("skipped the fuzz targets: libFuzzer is C++, and there is no c++ to compile it");
        return Ok(());
    }
    tree::run(&mut build())?;
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

/// As the tests are built, but for the workspace's own crates, which get instructions for coverage. Without a sanitizer,
/// which would take a nightly compiler: what the targets look for are panics, wrong answers and endless work in code
/// without `unsafe`.
fn build() -> Command {
    let mut command = tree::cargo();
    // Of the whole workspace, so that the crates of others are those that the tests have.
    command.args(["build", "--workspace", "--features", "brolly-fuzz/targets", "--bin", "fuzz-*"]);
    command.env("RUSTC_WORKSPACE_WRAPPER", tree::root().join("tests/fuzz/instrument"));
    command
}

fn fuzz(target: &str, seconds: u32) -> anyhow::Result<Ran> {
    let (found, broken) =
        (tree::target("fuzz/corpus").join(target), tree::target("fuzz/broken").join(target));
    for folder in [&found, &broken] {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let mut command = Command::new(tree::binary(&format!("fuzz-{target}")));
    command.args([MAX_LEN, MEMORY, PATIENCE, "-print_final_stats=1"]);
    // What is new goes to the first folder; the others are only read.
    command.arg(&found).arg(tree::root().join("tests/fuzz/corpus").join(target));
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
            "{}\nthe input is in {}; to run it again: {} FILE",
            end.join("\n"),
            broken.display(),
            tree::binary(&format!("fuzz-{target}")).display()
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
