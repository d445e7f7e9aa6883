//! `cargo xtask check`: everything that must hold before a change lands. CI runs the same.

use anyhow::Context;

use crate::{
    toolchain::{TARGET, Toolchain},
    tree,
};

/// Format, lints, plugins, tests (the house rules among them), a minute of each fuzz target and
/// documentation, in this order: what is quick to find comes first.
///
/// # Errors
/// At the first step that fails, naming it.
pub(crate) fn run() -> anyhow::Result<()> {
    tree::run(tree::cargo().args(["fmt", "--all", "--check"])).context("the format; `cargo fmt` mends it")?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"];
    tree::run(tree::cargo().args(clippy)).context("the lints")?;
    lint_guests()?;
    let summary = crate::test::all(&[]).context("the tests")?;
    crate::fuzz::run(&crate::fuzz::Arguments::of_a_check()).context("the fuzz targets")?;
    let mut doc = tree::cargo();
    doc.args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "--deny warnings");
    tree::run(&mut doc).context("the documentation")?;
    println!("{summary}");
    Ok(())
}

/// Lints what only a guest build sees. Debian's compiler has no clippy, so there only the compiler
/// itself looks at that code, when the plugins are built.
fn lint_guests() -> anyhow::Result<()> {
    if Toolchain::find()? == Toolchain::Debian {
        println!("skipped the lints of the SDK's guest side: no clippy for {TARGET} with Debian's compiler");
        return Ok(());
    }
    let mut clippy = tree::cargo();
    // The profile and the folder of the build, which has compiled the macros already.
    clippy
        .args(["clippy", "--profile", "guest", "--target", TARGET, "--target-dir"])
        .arg(tree::target("guests"));
    clippy.args(crate::plugins::packages()).args(["--", "--deny", "warnings"]);
    tree::run(&mut clippy).context("the lints of the guests")
}
