//! `brolly new`: a project that builds and passes its tests as it is.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;

use super::{inside, sdk};
use crate::client::{Error, print};

/// Make a project for a handler: sources, tests, sample messages, and the SDK.
///
/// Nothing is fetched. The project's first build fetches what the SDK depends on, in the versions that
/// this `brolly` was tested with, unless cargo has them already.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The plugin's name, and the folder that is made: letters, digits, - and _, beginning with a
    /// letter, up to 64 characters.
    name: String,
    /// Where the folder is made.
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
}

/// The files of a project; `{name}` in them is filled in.
const TEMPLATE: [(&str, &str); 6] = [
    ("Cargo.toml", include_str!("../../template/Cargo.toml")),
    ("src/lib.rs", include_str!("../../template/src/lib.rs")),
    ("samples.toml", include_str!("../../template/samples.toml")),
    ("brolly.toml", include_str!("../../template/brolly.toml")),
    ("README.md", include_str!("../../template/README.md")),
    (".gitignore", include_str!("../../template/gitignore")),
];

/// What the template depends on, sorted, as cargo writes it into the lock file.
const DEPENDENCIES: [&str; 3] = [sdk::FOLDER, "serde", "serde_json"];

/// Names that cargo refuses or that would hide something in the project's own code.
const TAKEN: [&str; 8] = ["test", "core", "std", "alloc", "proc_macro", "build", "deps", "incremental"];

/// Makes the project.
///
/// # Errors
/// When the name is no good, the folder exists, or something cannot be written. What was begun is
/// removed again.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let name = args.name.as_str();
    if let Some(why) = unfit(name)? {
        return Err(Error::Usage(format!("the name {name:?} {why}")).into());
    }
    let dir = inside(&args.dir, name);
    if dir.exists() {
        return Err(Error::Usage(format!("{} exists already", dir.display())).into());
    }
    if let Err(error) = write(&dir, name) {
        // Half a project would only be in the way; that it cannot be removed says nothing new.
        let _ = fs::remove_dir_all(&dir);
        return Err(error);
    }
    let shown = dir.display();
    Ok(print(&format!(
        "made {shown}; what now, and how to go on, stands in {shown}/README.md\n\n  cd {shown}\n  cargo \
         test\n  brolly build\n  brolly test\n"
    ))?)
}

/// Why a plugin's project cannot have this name.
fn unfit(name: &str) -> anyhow::Result<Option<String>> {
    let spelled = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.len() <= 64;
    if !spelled {
        return Ok(Some(
            "is not of letters, digits, - and _, beginning with a letter, up to 64 characters".to_owned(),
        ));
    }
    let ident = name.replace('-', "_");
    let is_crate = |package: &String| package.replace('-', "_") == ident;
    if sdk::packages()?.iter().any(is_crate) || TAKEN.contains(&ident.as_str()) || is_keyword(&ident) {
        return Ok(Some("means something to Rust or to the SDK; take another".to_owned()));
    }
    Ok(None)
}

/// Whether Rust keeps a word for itself, so that no crate can be called by it.
fn is_keyword(word: &str) -> bool {
    const WORDS: &str = "abstract as async await become box break const continue crate do dyn else enum \
                         extern false final fn for gen if impl in let loop macro match mod move mut \
                         override priv pub ref return self Self static struct super trait true try type \
                         typeof unsafe unsized use virtual where while yield";
    WORDS.split_whitespace().any(|keyword| keyword == word)
}

fn write(dir: &Path, name: &str) -> anyhow::Result<()> {
    for (path, text) in TEMPLATE {
        put(dir, path, &text.replace("{name}", name))?;
    }
    put(dir, "Cargo.lock", &sdk::lock(name, &DEPENDENCIES)?)?;
    for (path, text) in sdk::files()? {
        put(&dir.join(sdk::FOLDER), &path, &text)?;
    }
    Ok(())
}

fn put(dir: &Path, path: &str, text: &str) -> anyhow::Result<()> {
    let file = dir.join(path);
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    fs::write(&file, text).with_context(|| format!("writing {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_cannot_be_built_are_refused() {
        for good in ["a", "my-handler", "Handler_2", "activity"] {
            assert_eq!(unfit(good).unwrap(), None, "{good}");
        }
        for (bad, why) in [
            ("", "letters"),
            ("2nd", "letters"),
            ("a.b", "letters"),
            ("../up", "letters"),
            (&*"n".repeat(65), "letters"),
            ("serde", "the SDK"),
            ("serde-json", "the SDK"),
            ("brolly-plugin", "the SDK"),
            ("fn", "Rust"),
            ("test", "Rust"),
        ] {
            assert!(unfit(bad).unwrap().is_some_and(|said| said.contains(why)), "{bad}");
        }
    }

    #[test]
    fn a_folder_that_is_there_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("mine")).unwrap();
        let args = Args { name: "mine".into(), dir: dir.path().into() };
        assert!(run(&args).unwrap_err().to_string().contains("exists already"));
        assert_eq!(fs::read_dir(dir.path().join("mine")).unwrap().count(), 0);
    }
}
