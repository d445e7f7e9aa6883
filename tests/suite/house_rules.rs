//! The rules of the house that no compiler checks: who may depend on whom, how large a file may
//! grow, what a module may be called, what must not be written.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use brolly_tests::root;

/// Each package with everything of ours that it may depend on. Tests may depend on anything.
const ARROWS: [(&str, &[&str]); 22] = [
    ("brolly-core", &[]),
    ("brolly-store", &["brolly-core"]),
    ("brolly-capture", &["brolly-core"]),
    ("brolly-samples", &["brolly-core", "brolly-capture"]),
    ("brolly-alerts", &["brolly-core", "brolly-store"]),
    ("brolly-catalog", &["brolly-core", "brolly-store"]),
    ("brolly-ledger", &["brolly-core", "brolly-store"]),
    ("brolly-embedded", &["brolly-core", "brolly-store"]),
    ("brolly-runtime", &["brolly-core"]),
    ("brolly-outside", &["brolly-core"]),
    ("brolly-remote", &["brolly-core", "brolly-store"]),
    ("brolly-amqp", &["brolly-core", "brolly-remote"]),
    ("brolly-redis", &["brolly-core", "brolly-remote"]),
    (
        "brolly-dispatch",
        &[
            "brolly-core",
            "brolly-alerts",
            "brolly-capture",
            "brolly-catalog",
            "brolly-ledger",
            "brolly-samples",
        ],
    ),
    ("brolly-admin", &["brolly-core", "brolly-dispatch"]),
    (
        "brolly",
        &[
            "brolly-core",
            "brolly-alerts",
            "brolly-store",
            "brolly-capture",
            "brolly-catalog",
            "brolly-ledger",
            "brolly-embedded",
            "brolly-remote",
            "brolly-amqp",
            "brolly-redis",
            "brolly-runtime",
            "brolly-samples",
            "brolly-outside",
            "brolly-dispatch",
            "brolly-admin",
        ],
    ),
    ("brolly-plugin", &["brolly-plugin-macros"]),
    ("brolly-plugin-macros", &[]),
    ("brolly-activity", &["brolly-plugin"]),
    ("brolly-notification", &["brolly-plugin"]),
    ("brolly-settlement", &["brolly-plugin"]),
    ("xtask", &[]),
];

/// The one package that may know a vendor.
const VENDORS: [(&str, &[&str]); 11] = [
    ("wasmtime", &["brolly-runtime", "brolly-bench"]),
    ("sled", &["brolly-store", "brolly-bench"]),
    ("lapin", &["brolly-amqp", "brolly-bench", "brolly-fuzz"]),
    ("redis", &["brolly-redis"]),
    ("redb", &["brolly-store", "brolly-bench"]),
    ("axum", &["brolly-admin"]),
    ("cel", &["brolly-core"]),
    ("opentelemetry", &["brolly-dispatch", "brolly"]),
    ("opentelemetry_sdk", &["brolly"]),
    ("opentelemetry-otlp", &["brolly"]),
    ("lettre", &["brolly-alerts"]),
];

fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = cargo_metadata::MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .no_deps()
        .other_options(vec!["--offline".to_owned(), "--locked".to_owned()])
        .exec()
        .unwrap();
    let normal = |package: &cargo_metadata::Package| {
        let dependencies = package.dependencies.iter();
        let normal =
            dependencies.filter(|dependency| dependency.kind == cargo_metadata::DependencyKind::Normal);
        normal.map(|dependency| dependency.name.clone()).collect()
    };
    metadata.packages.iter().map(|package| (package.name.to_string(), normal(package))).collect()
}

#[test]
fn the_arrows_point_one_way() {
    let dependencies = dependencies();
    let ours: BTreeSet<&String> = dependencies.keys().collect();
    for (package, allowed) in ARROWS {
        let found = dependencies.get(package).unwrap_or_else(|| panic!("{package} is gone; mend this table"));
        let wrong: Vec<_> =
            found.iter().filter(|d| ours.contains(d) && !allowed.contains(&d.as_str())).collect();
        assert!(wrong.is_empty(), "{package} depends on {wrong:?}");
    }
    for package in dependencies.keys().filter(|name| !ARROWS.iter().any(|(known, _)| known == name)) {
        assert!(
            [
                "brolly-tests",
                "brolly-bench",
                "brolly-fuzz",
                "brolly-hostile",
                "brolly-messaging-guest",
                "brolly-sim",
                "brolly-wasi-guest"
            ]
            .contains(&package.as_str()),
            "{package} is not in the table of arrows"
        );
    }
    for (vendor, knows) in VENDORS {
        for (package, found) in &dependencies {
            assert!(!found.contains(vendor) || knows.contains(&package.as_str()), "{package} knows {vendor}");
        }
    }
}

/// Every Rust file of ours.
fn sources() -> Vec<PathBuf> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    for folder in ["host", "plugin-sdk", "plugins", "admin", "tests", "xtask"] {
        walk(&root().join(folder), &mut found);
    }
    assert!(found.len() > 50, "the walk finds the sources");
    found
}

#[test]
fn files_are_small_and_say_what_they_are() {
    let mut faults = Vec::new();
    for path in sources() {
        let text = fs::read_to_string(&path).unwrap();
        let (shown, lines) = (path.strip_prefix(root()).unwrap().display(), text.lines().count());
        if lines > 550 {
            faults.push(format!("{shown} has {lines} lines"));
        }
        if !text.starts_with("//!") {
            faults.push(format!("{shown} does not begin with //!"));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn nothing_is_called_by_a_name_that_says_nothing() {
    let banned = ["util", "utils", "common", "helper", "helpers", "misc"];
    let wrong: Vec<_> = sources()
        .into_iter()
        .filter(|path| {
            path.iter().any(|part| banned.contains(&part.to_string_lossy().trim_end_matches(".rs")))
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Words that must not stand in the code that runs, with what to write instead.
const BANNED: [(&str, &str); 3] = [
    ("#[ignore", "a test that does not run is none; mend or delete it"),
    ("thread::sleep", "wait for a condition"),
    ("unbounded_channel", "channels are bounded"),
];

#[test]
fn banned_words_do_not_stand_in_the_host() {
    let mut faults = Vec::new();
    for path in sources() {
        let shown = path.strip_prefix(root()).unwrap().display().to_string();
        let is_test = shown.starts_with("tests/") || shown.contains("/tests") || shown.starts_with("xtask/");
        if is_test {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for (word, instead) in BANNED {
            if code.contains(word) {
                faults.push(format!("{shown}: {word}: {instead}"));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

/// The loop that everything hangs on stays on one screen.
#[test]
fn the_message_loop_fits_on_a_screen() {
    let text = fs::read_to_string(root().join("host/dispatch/src/worker.rs")).unwrap();
    let from = text.find(" fn handle(&self").expect("the loop is there");
    let length = text[from..].lines().position(|line| line == "    }").unwrap();
    assert!(length <= 40, "{length} lines");
}

/// Bugs that are planted to show that the tests find them (`cargo xtask planted`) go with the code.
#[test]
fn every_planted_bug_fits_the_tree() {
    let mut found = 0;
    for entry in fs::read_dir(root().join("tests/planted")).unwrap() {
        let patch = entry.unwrap().path();
        let mut apply = Command::new("git");
        apply.args(["apply", "--check"]).arg(&patch).current_dir(root());
        let output = apply.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {said}", patch.display());
        found += 1;
    }
    assert!(found > 0, "there are some");
}
