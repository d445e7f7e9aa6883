//! `cargo xtask planted [NAME]`: plants deliberate bugs, one after the other, in a copy of the tree, and shows
//! which parts of the suite find each. A part that finds none of its kind is worth little.
//!
//! Each bug is a patch in `tests/planted`; what stands above it says what it does, and which further packages
//! test what it breaks. It compiles once for each, so it is run by hand.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context, bail};

use crate::tree;

/// Lives that the simulation is given to find a bug.
const SEEDS: &str = "500";

/// What a patch says before the names of further packages.
const ALSO: &str = "Also tested by: ";

/// Packages whose own tests have a part in it, whatever the bug is.
const ROOMS: [&str; 5] =
    ["brolly-core", "brolly-store", "brolly-ledger", "brolly-embedded", "brolly-dispatch"];

/// Which bugs.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Their names; none means all.
    names: Vec<String>,
}

/// Plants them and prints a table.
///
/// # Errors
/// If the tree without a bug fails, a patch does not fit, or a bug is found by nobody.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let copy = copy()?;
    let mut patches: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(tree::root().join("tests/planted")).context("cannot list tests/planted")? {
        let path = entry?.path();
        let name = name(&path);
        if path.extension().is_some_and(|it| it == "patch")
            && (arguments.names.is_empty() || arguments.names.contains(&name))
        {
            patches.push(path);
        }
    }
    patches.sort();
    let bugs: Vec<Bug> = patches.into_iter().map(Bug::read).collect::<anyhow::Result<_>>()?;
    crate::servers::provide();
    let everywhere: Vec<&str> = bugs.iter().flat_map(Bug::also).collect();
    let clean = find(&copy, &everywhere)?;
    if !clean.is_empty() {
        bail!("without a bug fails: {}", clean.join("; "));
    }
    println!("| planted bug | what it does | found by |\n| --- | --- | --- |");
    let mut missed = Vec::new();
    for bug in &bugs {
        apply(&copy, &bug.patch, &[])?;
        let found = find(&copy, &bug.also().collect::<Vec<_>>());
        apply(&copy, &bug.patch, &["--reverse"])?;
        let found = found?;
        println!("| {} | {} | {} |", name(&bug.patch), bug.what(), found.join("; "));
        if found.is_empty() {
            missed.push(name(&bug.patch));
        }
    }
    if !missed.is_empty() {
        bail!("found by nobody: {}", missed.join(", "));
    }
    Ok(())
}

/// A patch, and what it says.
struct Bug {
    patch: PathBuf,
    text: String,
}

impl Bug {
    fn read(patch: PathBuf) -> anyhow::Result<Self> {
        let text = fs::read_to_string(&patch).with_context(|| format!("cannot read {}", patch.display()))?;
        Ok(Self { patch, text })
    }

    fn what(&self) -> &str {
        self.text.lines().next().unwrap_or_default()
    }

    /// Further packages whose tests have a part in it.
    fn also(&self) -> impl Iterator<Item = &str> {
        self.text
            .lines()
            .find_map(|line| line.strip_prefix(ALSO))
            .into_iter()
            .flat_map(|names| names.split(", "))
    }
}

fn name(patch: &Path) -> String {
    patch.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// The tree as it stands, in a folder of its own with a build of its own.
fn copy() -> anyhow::Result<PathBuf> {
    let copy = tree::target("planted/tree");
    if copy.exists() {
        fs::remove_dir_all(&copy).with_context(|| format!("cannot remove {}", copy.display()))?;
    }
    let mut list = Command::new("git");
    list.args(["ls-files", "--cached", "--others", "--exclude-standard"]).current_dir(tree::root());
    let listed = list.output().context("cannot start git")?;
    for file in String::from_utf8(listed.stdout)?.lines() {
        let (from, to) = (tree::root().join(file), copy.join(file));
        if let (Some(folder), true) = (to.parent(), from.is_file()) {
            fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
            fs::copy(&from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
            // What did not change since the last copy is not compiled again.
            let times = fs::metadata(&from)?.modified()?;
            fs::File::options().write(true).open(&to)?.set_modified(times)?;
        }
    }
    Ok(copy)
}

fn apply(copy: &Path, patch: &Path, how: &[&str]) -> anyhow::Result<()> {
    // The copy lies within a repository and is no part of it.
    let mut apply = Command::new("patch");
    apply.args(["--strip=1", "--quiet", "--no-backup-if-mismatch", "--input"]).arg(patch).args(how);
    tree::run(apply.current_dir(copy))
}

/// The parts of the suite that fail; the tests of the packages `also` are among them.
fn find(copy: &Path, also: &[&str]) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    let simulation = ["run", "--package", "brolly-sim", "--", "--seeds", SEEDS, "--first"];
    let output = cargo(copy, &simulation)?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        match text.lines().find(|line| line.starts_with("seed ")) {
            Some(line) => found.push(format!("simulation, {line}")),
            None => bail!("it does not build: {}", String::from_utf8_lossy(&output.stderr)),
        }
    }
    let states = ["--package", "brolly-sim", "--test", "states", "--lib"];
    found.extend(failing(copy, &states, &ROOMS)?);
    if !also.is_empty() {
        found.extend(failing(copy, &[], also)?);
    }
    Ok(found)
}

/// The tests of these packages, chosen so, that fail.
fn failing(copy: &Path, choice: &[&str], packages: &[&str]) -> anyhow::Result<Vec<String>> {
    let mut arguments = vec!["test", "--no-fail-fast"];
    arguments.extend(choice);
    arguments.extend(packages.iter().flat_map(|package| ["--package", *package]));
    let output = cargo(copy, &arguments)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let failed = text.lines().filter_map(|line| line.strip_suffix(" ... FAILED")?.strip_prefix("test "));
    let mut failed: Vec<String> = failed.map(|test| format!("`{test}`")).collect();
    if failed.is_empty() && !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        if said.contains("could not compile") {
            bail!("it does not build: {said}");
        }
        failed.push("a test that ended its process".to_owned());
    }
    Ok(failed)
}

fn cargo(copy: &Path, arguments: &[&str]) -> anyhow::Result<Output> {
    let mut command = tree::cargo();
    command.args(arguments).current_dir(copy).env("CARGO_TARGET_DIR", tree::target("planted/target"));
    let line = tree::show(&command);
    eprintln!("> {line}");
    command.output().with_context(|| format!("cannot start {line}"))
}
