//! `cargo xtask test`: plugins, the binary, then every test; says what was skipped and why.
//!
//! A test that cannot run here (a server is not installed, say) appends one line, `what: why`, to
//! the file that the environment variable `BROLLY_SKIPS` names, and passes. The binary under test is
//! named by `BROLLY_BIN`. Tests start their servers themselves; here they are installed if need be.

use std::{
    env, fs,
    io::{BufRead, BufReader, IsTerminal, Read, Write},
    process::{Command, Stdio},
    sync::Mutex,
    thread,
};

use anyhow::{Context, bail};

use crate::tree;

/// Which tests.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Arguments {
    /// Run only tests whose name contains one of these; none means all.
    filters: Vec<String>,
}

/// How many tests passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    passed: u64,
    failed: u64,
    skipped: u64,
}

/// Runs the tests and ends with one plain line.
///
/// # Errors
/// If something cannot be built, or a test failed.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let summary = all(&arguments.filters)?;
    println!("{summary}");
    Ok(())
}

/// Runs the tests, prints what was skipped, and answers with the numbers.
///
/// # Errors
/// As [`run`].
pub(crate) fn all(filters: &[String]) -> anyhow::Result<Summary> {
    crate::servers::provide();
    build()?;
    let skips = tree::target("skipped-tests.txt");
    fs::write(&skips, "").with_context(|| format!("cannot write {}", skips.display()))?;
    let mut summary = Summary::default();
    let mut failures = Vec::new();
    for mut runner in runners(filters) {
        runner.command.env("BROLLY_SKIPS", &skips).env("BROLLY_BIN", tree::binary("brolly"));
        if let Err(error) = watch(&mut runner, &mut summary) {
            failures.push(error.to_string());
        }
    }
    let skipped = fs::read_to_string(&skips).with_context(|| format!("cannot read {}", skips.display()))?;
    for line in skipped.lines() {
        println!("skipped {line}");
        summary.skipped += 1;
    }
    if failures.is_empty() {
        return Ok(summary);
    }
    println!("{summary}");
    bail!(failures.join("; "))
}

/// Builds the plugins, the binary and the tests.
///
/// All at once: the binary alone would be built with fewer features of the same dependencies, and so would compile the
/// largest of them twice. The benchmark itself, as large as the binary, is only built where it is run.
///
/// # Errors
/// If something cannot be built.
pub(crate) fn build() -> anyhow::Result<()> {
    crate::plugins::run()?;
    tree::run(tree::cargo().args(["build", "--workspace", "--tests", "--bin", "brolly"]))
}

/// How the line begins in which cargo's own runner counts tests.
const CARGOS: &str = "test result: ";
/// And nextest's, which also shows the former's for each test that failed.
const NEXTESTS: &str = "Summary [";

/// A command that runs tests.
struct Runner {
    command: Command,
    /// How the line begins in which it counts them.
    closing: &'static str,
}

/// The commands that run all tests: nextest, which leaves out examples in documentation, if it is
/// there.
fn runners(filters: &[String]) -> Vec<Runner> {
    let mut runners = Vec::new();
    if tree::succeeds(tree::cargo().args(["nextest", "--version"])) {
        let mut tests = tree::cargo();
        tests.args(["nextest", "run", "--workspace", "--no-fail-fast", "--no-tests", "pass"]).args(filters);
        let mut examples = tree::cargo();
        examples.args(["test", "--workspace", "--doc", "--no-fail-fast", "--"]).args(filters);
        runners.push(Runner { command: tests, closing: NEXTESTS });
        runners.push(Runner { command: examples, closing: CARGOS });
    } else {
        let mut tests = tree::cargo();
        tests.args(["test", "--workspace", "--no-fail-fast", "--"]).args(filters);
        runners.push(Runner { command: tests, closing: CARGOS });
    }
    if std::io::stdout().is_terminal() && env::var_os("CARGO_TERM_COLOR").is_none() {
        for Runner { command, .. } in &mut runners {
            command.env("CARGO_TERM_COLOR", "always");
        }
    }
    runners
}

/// Runs a command, shows what it prints, and counts the tests that it reports.
fn watch(runner: &mut Runner, summary: &mut Summary) -> anyhow::Result<()> {
    let Runner { command, closing } = runner;
    let closing = *closing;
    let line = tree::show(command);
    eprintln!("> {line}");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {line}"))?;
    let counted = Mutex::new(summary);
    thread::scope(|scope| {
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let count = &counted;
        scope.spawn(move || stdout.map(|from| pass_on(from, std::io::stdout(), closing, count)));
        scope.spawn(move || stderr.map(|from| pass_on(from, std::io::stderr(), closing, count)));
    });
    let status = child.wait().with_context(|| format!("cannot wait for {line}"))?;
    if !status.success() {
        bail!("{line} failed: {status}");
    }
    Ok(())
}

fn pass_on(from: impl Read, mut to: impl Write, closing: &str, summary: &Mutex<&mut Summary>) {
    for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
        if let (Some(counts), Ok(mut summary)) =
            (Summary::read(&String::from_utf8_lossy(&line), closing), summary.lock())
        {
            summary.passed += counts.passed;
            summary.failed += counts.failed;
            summary.skipped += counts.skipped;
        }
        // Whoever reads our output may have gone; the tests go on all the same.
        let _ = to.write_all(&line).and_then(|()| to.write_all(b"\n"));
    }
}

impl Summary {
    /// Reads the closing line of a test run, which begins so.
    fn read(line: &str, closing: &str) -> Option<Self> {
        let line = without_colours(line);
        let line = line.trim();
        if !line.starts_with(closing) {
            return None;
        }
        let words: Vec<&str> = line.split([' ', ',', ';', '.']).filter(|word| !word.is_empty()).collect();
        let before = |name: &str| {
            let number =
                words.windows(2).find(|pair| pair.get(1) == Some(&name)).and_then(|pair| pair.first());
            number.and_then(|number| number.parse().ok()).unwrap_or(0)
        };
        // Tests that a filter left out are not skipped: nobody asked for them.
        Some(Self { passed: before("passed"), failed: before("failed"), skipped: before("ignored") })
    }
}

fn without_colours(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        plain.push_str(before);
        rest = after.split_once('m').map_or("", |(_, after)| after);
    }
    plain + rest
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Summary { passed, failed, skipped } = self;
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(closing: &str, line: &str, expect: Option<(u64, u64, u64)>) {
        let expect = expect.map(|(passed, failed, skipped)| Summary { passed, failed, skipped });
        assert_eq!(Summary::read(line, closing), expect, "{line:?}");
    }

    #[test]
    fn closing_lines() {
        check(
            CARGOS,
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.01s",
            Some((12, 0, 1)),
        );
        check(
            CARGOS,
            "test result: \u{1b}[31mFAILED\u{1b}(B\u{1b}[m. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out",
            Some((1, 2, 0)),
        );
        check(
            NEXTESTS,
            "     Summary [   1.038s] 9 tests run: 8 passed, 1 failed, 4 skipped",
            Some((8, 1, 0)),
        );
        check(
            NEXTESTS,
            "\u{1b}[32;1m     Summary\u{1b}[0m [   0.038s] 9 tests run: 9 passed",
            Some((9, 0, 0)),
        );
        check(
            NEXTESTS,
            "    test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 8 filtered out",
            None,
        );
        check(CARGOS, "test tests::closing_lines ... ok", None);
        check(CARGOS, "3 passed", None);
    }
}
