//! The SDK that this binary carries: its sources, and the dependencies that it was tested with.
//!
//! The SDK is not in a registry. A new project has a copy in its own tree, so that a clone of the
//! project builds anywhere, with the SDK that fits the host which made it. Used by `new`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, anyhow};
use toml::{Table, Value};

/// The folder of the SDK in a project.
pub const FOLDER: &str = "brolly-plugin";

/// The manifest of this workspace, in which the SDK's own look up what they share with it.
const WORKSPACE: &str = include_str!("../../../../Cargo.toml");
const LOCK: &str = include_str!("../../../../Cargo.lock");

const MANIFESTS: [(&str, &str); 2] = [
    ("Cargo.toml", include_str!("../../../../plugin-sdk/Cargo.toml")),
    ("macros/Cargo.toml", include_str!("../../../../plugin-sdk/macros/Cargo.toml")),
];

/// A file of the SDK under its name there.
macro_rules! files {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("../../../../plugin-sdk/", $name)))),*]
    };
}

const SOURCES: [(&str, &str); 18] = files![
    "macros/src/lib.rs",
    "src/clock.rs",
    "src/config.rs",
    "src/delivery.rs",
    "src/failure.rs",
    "src/http.rs",
    "src/lib.rs",
    "src/log.rs",
    "src/publish.rs",
    "src/random.rs",
    "src/state.rs",
    "src/testing/attempt.rs",
    "src/testing/contract.rs",
    "src/testing/mod.rs",
    "src/testing/outside.rs",
    "src/testing/sandbox.rs",
    "src/wasi.rs",
    "src/wasm.rs",
];

const CONTRACT: [(&str, &str); 8] = files![
    "wit/handler.wit",
    "wit/granted.wit",
    "wit/deps/cli.wit",
    "wit/deps/clocks.wit",
    "wit/deps/http.wit",
    "wit/deps/io.wit",
    "wit/deps/messaging.wit",
    "wit/deps/random.wit",
];

/// So that `cargo fmt` in a project leaves the SDK as it is.
const FORMAT: (&str, &str) = ("rustfmt.toml", include_str!("../../../../rustfmt.toml"));

/// The files of the SDK, each with its path in [`FOLDER`].
///
/// # Errors
/// When a manifest of this workspace is not as this file expects; a test holds that it is.
pub fn files() -> anyhow::Result<Vec<(String, String)>> {
    let workspace: Table = WORKSPACE.parse().context("the workspace's manifest")?;
    let workspace = workspace.get("workspace").and_then(Value::as_table).context("the workspace")?;
    let mut files = Vec::new();
    for (path, text) in MANIFESTS {
        files.push((path.to_owned(), manifest(text, workspace).with_context(|| path.to_owned())?));
    }
    let sources = SOURCES.iter().chain(&CONTRACT).chain([&FORMAT]);
    files.extend(sources.map(|(path, text)| ((*path).to_owned(), (*text).to_owned())));
    Ok(files)
}

/// A manifest of the SDK as it stands outside of this workspace.
fn manifest(text: &str, workspace: &Table) -> anyhow::Result<String> {
    let mut manifest: Table = text.parse()?;
    // What the house demands of itself is no business of others.
    manifest.remove("lints");
    if let Some(package) = manifest.get_mut("package").and_then(Value::as_table_mut) {
        inherit(package, workspace.get("package").and_then(Value::as_table))?;
    }
    let shared = workspace.get("dependencies").and_then(Value::as_table);
    if let Some(dependencies) = manifest.get_mut("dependencies").and_then(Value::as_table_mut) {
        inherit(dependencies, shared)?;
    }
    for (_, target) in manifest.get_mut("target").and_then(Value::as_table_mut).into_iter().flatten() {
        if let Some(dependencies) = target.get_mut("dependencies").and_then(Value::as_table_mut) {
            inherit(dependencies, shared)?;
        }
    }
    Ok(toml::to_string(&manifest)?)
}

/// Puts what the workspace says in the place of `workspace = true`.
fn inherit(table: &mut Table, shared: Option<&Table>) -> anyhow::Result<()> {
    for (name, value) in table {
        if value.get("workspace").and_then(Value::as_bool) != Some(true) {
            continue;
        }
        let mut said = shared.and_then(|shared| shared.get(name)).cloned();
        if let Some(path) = said.as_mut().and_then(|said| said.get_mut("path")) {
            *path = Value::String("macros".to_owned());
        }
        *value = said.ok_or_else(|| anyhow!("the workspace says nothing of {name}"))?;
    }
    Ok(())
}

/// A package of the lock file, and what it depends on.
type Locked = (Table, Vec<String>);

/// The lock file of a new project: the versions that the SDK was tested with.
///
/// # Errors
/// As [`files()`].
pub fn lock(package: &str, dependencies: &[&str]) -> anyhow::Result<String> {
    let known: Table = LOCK.parse().context("the workspace's lock file")?;
    let mut kept = closure(&known)?;
    let mut own = Table::new();
    own.insert("name".to_owned(), package.into());
    own.insert("version".to_owned(), "0.1.0".into());
    let depends = dependencies.iter().map(|name| (*name).to_owned()).collect();
    kept.insert((package.to_owned(), "0.1.0".to_owned()), (own, depends));
    let mut versions: BTreeMap<String, u32> = BTreeMap::new();
    for (name, _) in kept.keys() {
        *versions.entry(name.clone()).or_default() += 1;
    }
    let mut out =
        "# This file is automatically @generated by Cargo.\n# It is not intended for manual editing.\n"
            .to_owned();
    let version = known.get("version").context("the version of the lock file")?;
    out.push_str(&format!("version = {version}\n"));
    for (package, depends) in kept.values() {
        out.push_str("\n[[package]]\n");
        // As cargo orders them; nothing else stands here.
        for key in ["name", "version", "source", "checksum"] {
            if let Some(value) = package.get(key) {
                out.push_str(&format!("{key} = {value}\n"));
            }
        }
        if depends.is_empty() {
            continue;
        }
        out.push_str("dependencies = [\n");
        for dependency in depends {
            // A version is named only where there is a choice.
            let name = dependency.split(' ').next().unwrap_or_default();
            let shown = if versions.get(name) == Some(&1) { name } else { dependency };
            out.push_str(&format!(" \"{shown}\",\n"));
        }
        out.push_str("]\n");
    }
    Ok(out)
}

/// The names of all packages that a project with the SDK is built from.
///
/// # Errors
/// As [`files()`].
pub fn packages() -> anyhow::Result<BTreeSet<String>> {
    let known: Table = LOCK.parse().context("the workspace's lock file")?;
    Ok(closure(&known)?.into_keys().map(|(name, _)| name).collect())
}

/// The SDK and everything below it, by name and version.
fn closure(known: &Table) -> anyhow::Result<BTreeMap<(String, String), Locked>> {
    let all = known.get("package").and_then(Value::as_array).context("packages")?;
    let mut kept = BTreeMap::new();
    let mut wanted = vec![FOLDER.to_owned()];
    while let Some(next) = wanted.pop() {
        let mut words = next.split(' ');
        let (name, version) = (words.next().unwrap_or_default(), words.next());
        let is_it = |package: &&Value| {
            let text = |key: &str| package.get(key).and_then(Value::as_str);
            text("name") == Some(name) && (version.is_none() || text("version") == version)
        };
        let found = all.iter().find(is_it).and_then(Value::as_table);
        let mut package = found.with_context(|| format!("{next} in the lock file"))?.clone();
        let found = package.get("version").and_then(Value::as_str).context("a version")?;
        let key = (name.to_owned(), found.to_owned());
        if kept.contains_key(&key) {
            continue;
        }
        let depends = match package.remove("dependencies") {
            Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            _ => Vec::new(),
        };
        wanted.extend(depends.iter().cloned());
        kept.insert(key, (package, depends));
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    #[test]
    fn every_file_of_the_sdk_is_carried() {
        fn walk(folder: &Path, from: &Path, found: &mut BTreeSet<String>) {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(&path, from, found);
                } else {
                    found.insert(path.strip_prefix(from).unwrap().to_str().unwrap().to_owned());
                }
            }
        }
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugin-sdk");
        let mut expect = BTreeSet::new();
        for folder in ["src", "wit", "macros/src"] {
            walk(&from.join(folder), &from, &mut expect);
        }
        expect.extend(MANIFESTS.map(|(path, _)| path.to_owned()));
        expect.insert(FORMAT.0.to_owned());
        let carried: BTreeSet<String> = files().unwrap().into_iter().map(|(path, _)| path).collect();
        assert_eq!(carried, expect);
    }

    #[test]
    fn manifests_stand_alone() {
        for (path, text) in files().unwrap().iter().filter(|(path, _)| path.ends_with("Cargo.toml")) {
            assert!(!text.contains("workspace"), "{path}: {text}");
            let manifest: Table = text.parse().unwrap();
            assert_eq!(manifest["package"]["version"].as_str(), Some(env!("CARGO_PKG_VERSION")), "{path}");
        }
        let sdk = &files().unwrap()[0].1;
        assert!(sdk.contains("path = \"macros\"") && sdk.contains("wit-bindgen"), "{sdk}");
    }
}
