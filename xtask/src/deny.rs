//! `cargo xtask deny`: holds what comes from outside to `deny.toml`; `cargo xtask sbom`: lists it.

use std::fs;

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
    for package in packages()? {
        let made = package.join("brolly.cdx.json");
        if package.ends_with("host/brolly") {
            let to = folder.join("brolly.cdx.json");
            fs::rename(&made, &to).with_context(|| format!("cannot move {}", made.display()))?;
            println!("{}", to.display());
        } else if made.exists() {
            fs::remove_file(&made).with_context(|| format!("cannot remove {}", made.display()))?;
        }
    }
    Ok(())
}

/// The folders of our packages, as the workspace lists them.
fn packages() -> anyhow::Result<Vec<std::path::PathBuf>> {
    let manifest = tree::root().join("Cargo.toml");
    let text =
        fs::read_to_string(&manifest).with_context(|| format!("cannot read {}", manifest.display()))?;
    let members =
        text.split("members = [").nth(1).and_then(|rest| rest.split(']').next()).unwrap_or_default();
    let named = members.split('"').skip(1).step_by(2).filter(|name| !name.is_empty());
    Ok(named.map(|name| tree::root().join(name)).collect())
}
