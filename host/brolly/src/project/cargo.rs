//! The project as cargo sees it, and building it. Used by `build`, `test` and `dev`.

use std::{
    env,
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader, ErrorKind},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, anyhow, bail};
use brolly_core::Name;
use serde_json::Value;

use super::sandbox::{self, Built, Sandbox};
use crate::client::Error;

/// What plugins are compiled for: no system below them that they could call.
const TARGET: &str = "wasm32-unknown-unknown";

/// A project of one plugin.
#[derive(Clone, Debug)]
pub struct Project {
    /// Its folder.
    pub dir: PathBuf,
    /// The package, and the plugin.
    pub name: Name,
}

impl Project {
    /// The project in a folder.
    ///
    /// # Errors
    /// When there is none, or cargo cannot read it.
    pub fn find(dir: &Path) -> anyhow::Result<Self> {
        let shown = dir.display();
        let manifest = dir.join("Cargo.toml");
        if !manifest.is_file() {
            let why = format!("{} is missing; `brolly new NAME` makes a project", manifest.display());
            return Err(Error::Usage(why).into());
        }
        let dir = dir.canonicalize().with_context(|| format!("looking at {shown}"))?;
        let mut command = Command::new("cargo");
        command.args(["metadata", "--no-deps", "--format-version", "1"]).current_dir(&dir);
        let output = command.stderr(Stdio::inherit()).output().map_err(no_cargo)?;
        if !output.status.success() {
            bail!("cargo cannot read the project in {shown}");
        }
        let metadata: Value =
            serde_json::from_slice(&output.stdout).context("what cargo tells of the project")?;
        let packages = metadata.get("packages").and_then(Value::as_array).into_iter().flatten();
        let manifest = dir.join("Cargo.toml");
        let is_it =
            |package: &&Value| text(package, "manifest_path").is_some_and(|path| Path::new(path) == manifest);
        let Some(package) = packages.into_iter().find(is_it) else {
            return Err(Error::Usage(format!("{} has no [package]", manifest.display())).into());
        };
        if !has_module(package) {
            let why = format!(
                "{} makes no WebAssembly module: [lib] needs crate-type = [\"cdylib\", \"rlib\"]",
                manifest.display()
            );
            return Err(Error::Usage(why).into());
        }
        let name = text(package, "name").unwrap_or_default();
        let name = Name::new(name).map_err(|refusal| Error::Usage(refusal.detail))?;
        Ok(Self { dir, name })
    }

    /// Where the plugin is put, whatever folder cargo builds in: documents name it.
    pub fn wasm(&self) -> PathBuf {
        self.dir.join("target/brolly").join(format!("{}.wasm", self.name))
    }

    /// Builds the plugin, makes a component of it and holds it against what a host demands.
    ///
    /// # Errors
    /// When a tool is missing, with the command that brings it; when the sources cannot be compiled,
    /// which cargo has told in its own words; when no host would take the plugin.
    pub fn build(&self) -> anyhow::Result<Built> {
        Ok(self.built()?.1)
    }

    /// Builds the plugin; answers also with the sandbox in which it is compiled.
    ///
    /// # Errors
    /// As [`Project::build`].
    pub fn built(&self) -> anyhow::Result<(Sandbox, Built)> {
        need_target()?;
        let module = self.compile()?;
        let module = fs::read(&module).with_context(|| format!("reading {}", module.display()))?;
        let component = sandbox::component(&module)?;
        let path = self.wasm();
        let folder = path.parent().unwrap_or(&self.dir);
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        // In one step, and only if it differs: others may read it or watch it.
        if fs::read(&path).ok().as_deref() != Some(&component) {
            let new = path.with_extension("wasm.new");
            fs::write(&new, &component)
                .and_then(|()| fs::rename(&new, &path))
                .with_context(|| format!("writing {}", path.display()))?;
        }
        let sandbox = Sandbox::in_folder(&folder.join("cache"))?;
        let built = sandbox.admit(path)?;
        Ok((sandbox, built))
    }

    /// Has cargo compile the plugin; answers with the module's path.
    fn compile(&self) -> anyhow::Result<PathBuf> {
        let mut command = Command::new("cargo");
        command.args(["build", "--release", "--target", TARGET, "--message-format"]);
        command.args(["json-render-diagnostics", "--package", self.name.as_str()]);
        command.current_dir(&self.dir).env("CARGO_ENCODED_RUSTFLAGS", self.remapped_paths());
        let mut child = command.stdout(Stdio::piped()).spawn().map_err(no_cargo)?;
        let mut module = None;
        for line in child.stdout.take().map(BufReader::new).into_iter().flat_map(BufRead::lines) {
            let Ok(message) = serde_json::from_str::<Value>(&line.context("reading what cargo tells")?)
            else {
                continue;
            };
            module = self.module_in(&message).or(module);
        }
        let status = child.wait().context("waiting for cargo")?;
        if !status.success() {
            bail!("the plugin {} cannot be built", self.name);
        }
        module.with_context(|| format!("cargo built no .wasm file of {}", self.name))
    }

    /// The module that a message of cargo's tells of, if it is this project's.
    fn module_in(&self, message: &Value) -> Option<PathBuf> {
        let is_ours = text(message, "reason") == Some("compiler-artifact")
            && text(message, "manifest_path")
                .is_some_and(|path| Path::new(path) == self.dir.join("Cargo.toml"));
        let files = message.get("filenames").and_then(Value::as_array).filter(|_| is_ours)?;
        let paths = files.iter().filter_map(Value::as_str).map(PathBuf::from);
        paths.into_iter().find(|path| path.extension() == Some(OsStr::new("wasm")))
    }

    /// Keeps the paths of this machine out of the plugin, so that equal sources give equal versions.
    fn remapped_paths(&self) -> String {
        let cargo = env::var_os("CARGO_HOME").map(PathBuf::from);
        let cargo = cargo.or_else(|| env::home_dir().map(|home| home.join(".cargo")));
        let pairs = [(Some(&self.dir), self.name.as_str()), (cargo.as_ref(), "cargo")];
        let flags = pairs.iter().filter_map(|(path, name)| {
            path.map(|path| format!("--remap-path-prefix={}={name}", path.display()))
        });
        flags.collect::<Vec<_>>().join("\u{1f}")
    }
}

/// Whether a package's library is compiled to a module.
fn has_module(package: &Value) -> bool {
    let targets = package.get("targets").and_then(Value::as_array).into_iter().flatten();
    let kinds = targets.filter_map(|target| target.get("crate_types").and_then(Value::as_array)).flatten();
    kinds.into_iter().any(|kind| kind == "cdylib")
}

fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key).and_then(Value::as_str)
}

fn no_cargo(error: std::io::Error) -> anyhow::Error {
    if error.kind() == ErrorKind::NotFound {
        return anyhow!("cargo is not installed or not on PATH; https://rustup.rs has it");
    }
    anyhow!(error).context("cargo cannot be started")
}

/// Looks whether the compiler can make WebAssembly, before cargo fails with a page of errors.
fn need_target() -> anyhow::Result<()> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let asked = Command::new(rustc).args(["--print", "target-libdir", "--target", TARGET]).output();
    // A compiler that cannot be asked is for cargo to complain about.
    let Ok(output) = asked else { return Ok(()) };
    let folder = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let is_there = |folder: &str| fs::read_dir(folder).is_ok_and(|mut files| files.next().is_some());
    if output.status.success() && !is_there(&folder) {
        bail!(
            "the Rust compiler has no standard library for {TARGET}; this installs it, once:\n\n  rustup target \
             add {TARGET}\n"
        );
    }
    Ok(())
}
