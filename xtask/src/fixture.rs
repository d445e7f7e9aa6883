//! `cargo xtask fixture`: packs what this version leaves on disk, for the tests of later versions.

use crate::tree;

/// Builds what is needed, and makes `tests/data/upgrade/VERSION-ENGINE.tar.xz` of each engine.
///
/// # Errors
/// If something cannot be built, or the fixture has become too large.
pub(crate) fn run() -> anyhow::Result<()> {
    crate::test::build()?;
    tree::run(&mut std::process::Command::new(tree::binary("brolly-fixture")))
}
