//! `cargo xtask deny`: holds what comes from outside to `deny.toml`; `cargo xtask sbom`: lists it.

use std::{fs, process::Command};

use anyhow::Context;

use crate::{tools, tree};

/// Licences, bans, duplicates, sources; and known holes, where their list can be fetched.
///
/// # Errors
/// If something breaks the policy.
pub(crate) fn run() -> anyhow::Result<()> {
    if !tools::provide("deny") {
        return Ok(());
    }
    let check = ["deny", "--workspace", "check", "--hide-inclusion-graph"];
    tree::run(tree::cargo().args(check).args(["bans", "licenses", "sources"]))?;
    if !tree::succeeds(tree::cargo().args(["deny", "fetch"])) {
        println!("skipped the advisories: their list cannot be fetched from here");
        return Ok(());
    }
    tree::run(tree::cargo().args(check).arg("advisories"))
}

/// Writes everything that the binary is made of to `target/sbom/brolly.cdx.json`, as CycloneDX has it.
///
/// # Errors
/// If the list cannot be made.
pub(crate) fn sbom() -> anyhow::Result<()> {
    if !tools::provide("cyclonedx") {
        return Ok(());
    }
    let arguments = ["cyclonedx", "--manifest-path", "host/brolly/Cargo.toml", "--format", "json"];
    let name = ["--spec-version", "1.5", "--override-filename", "brolly.cdx"];
    tree::run(tree::cargo().args(arguments).args(name))?;
    let folder = tree::target("sbom");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    // The tool leaves one beside the manifest of every package of ours that is in it.
    let (made, wanted) = (tree::root().join("host/brolly/brolly.cdx.json"), folder.join("brolly.cdx.json"));
    fs::rename(&made, &wanted).with_context(|| format!("cannot move {}", made.display()))?;
    let others = ["clean", "--force", "--quiet", "--", "*/brolly.cdx.json"];
    tree::run(Command::new("git").args(others).current_dir(tree::root()))?;
    println!("{}", wanted.display());
    Ok(())
}
