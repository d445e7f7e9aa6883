//! `cargo xtask plugins`: the sample plugins and those for tests, as WebAssembly.

use std::{fs, path::Path};

use anyhow::Context;

use crate::{
    toolchain::{TARGET, Toolchain},
    tree,
};

/// The guests: package, folder below `target`, name of the file there without `.wasm`.
const GUESTS: [(&str, &str, &str); 6] = [
    ("brolly-activity", "plugins", "activity"),
    ("brolly-notification", "plugins", "notification"),
    ("brolly-settlement", "plugins", "settlement"),
    ("brolly-hostile", "test-plugins", "hostile"),
    ("brolly-wasi-guest", "test-plugins", "wasi"),
    ("brolly-messaging-guest", "test-plugins", "messaging"),
];

/// Builds all guests.
///
/// The result of the compiler is a core module with the component's type in a custom section; the
/// host makes a component of it when it is uploaded.
pub(crate) fn run() -> anyhow::Result<()> {
    let toolchain = Toolchain::find()?;
    // A folder of its own: a guest build never waits for a host build that holds the lock.
    let build = tree::target("guests");
    let mut command = toolchain.cargo_build()?;
    command.arg("--target-dir").arg(&build).args(packages());
    tree::run(&mut command)?;
    let built = build.join(TARGET).join("guest");
    for (package, folder, name) in GUESTS {
        let from = built.join(format!("{}.wasm", package.replace('-', "_")));
        let to = tree::target(folder).join(format!("{name}.wasm"));
        let bytes = copy_if_changed(&from, &to)?;
        println!("target/{folder}/{name}.wasm  {:.1} kB", bytes as f64 / 1_000.0);
    }
    Ok(())
}

/// The guests as arguments for cargo, the SDK with them.
pub(crate) fn packages() -> impl Iterator<Item = &'static str> {
    let guests = GUESTS.iter().map(|(package, _, _)| *package);
    guests.chain(["brolly-plugin"]).flat_map(|package| ["--package", package])
}

/// Replaces `to` in one step, and only if it differs, so that a reader never sees half a file and
/// a watcher sees only real changes. Answers with the size in bytes.
fn copy_if_changed(from: &Path, to: &Path) -> anyhow::Result<usize> {
    let bytes = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    if fs::read(to).is_ok_and(|present| present == bytes) {
        return Ok(bytes.len());
    }
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let new = to.with_extension("wasm.new");
    fs::write(&new, &bytes).with_context(|| format!("cannot write {}", new.display()))?;
    fs::rename(&new, to).with_context(|| format!("cannot replace {}", to.display()))?;
    Ok(bytes.len())
}
