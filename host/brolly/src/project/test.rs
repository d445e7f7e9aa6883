//! `brolly test`: a plugin against sample messages, in the host's own sandbox.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use brolly_core::Name;
use brolly_samples::Samples;

use super::{
    cargo::Project,
    inside,
    sandbox::{Built, Sandbox},
};
use crate::client::{Error, print, read_text};

/// The document of a project.
pub const DOCUMENT: &str = "samples.toml";

/// Run sample messages through the plugin, in the host's own sandbox, and compare what comes of them.
///
/// The document names messages and, for each, the outcome, the messages published and the state written
/// that are expected. The samples run one after the other, over the state that the ones before have left.
/// Ends with 1 if one of them differs, and with 2 if the document has mistakes, all of which are told.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The document [default: samples.toml in the project's folder].
    file: Option<PathBuf>,
    /// The project's folder; its plugin is built first.
    #[arg(long, value_name = "DIR", default_value = ".")]
    project: PathBuf,
    /// Test this plugin instead of building one.
    #[arg(long, value_name = "FILE")]
    plugin: Option<PathBuf>,
}

/// Tests.
///
/// # Errors
/// Mistakes of the document; whatever keeps the plugin from being built; samples that differ.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let file = args.file.clone().unwrap_or_else(|| inside(&args.project, DOCUMENT));
    let fallback = Name::new("plugin").map_err(|refusal| anyhow::anyhow!(refusal.detail))?;
    let named = args.plugin.clone();
    // Mistakes first: a build takes longer than mending them.
    let samples = read(&file, &fallback)?;
    let beside = |plugin: &PathBuf| file.parent().unwrap_or(Path::new("")).join(plugin);
    if let Some(wasm) = named.or_else(|| samples.plugin.as_ref().map(beside)) {
        let cache = tempfile::tempdir().context("making a folder for the compiled plugin")?;
        let sandbox = Sandbox::in_folder(cache.path())?;
        let built = sandbox.admit(wasm)?;
        return check(&sandbox, &built, &file, &samples);
    }
    let project = Project::find(&args.project)?;
    let samples = read(&file, &project.name)?;
    let (sandbox, built) = project.built()?;
    check(&sandbox, &built, &file, &samples)
}

/// Reads a document. A subscription that it does not name is called `plugin`.
///
/// # Errors
/// When it cannot be read, or with all its mistakes, each with file and line.
pub fn read(path: &Path, plugin: &Name) -> Result<Samples, Error> {
    let (file, text) = (path.display().to_string(), read_text(path)?);
    let folder = path.parent().unwrap_or(Path::new(""));
    brolly_samples::read(&file, &text, Some(folder), plugin)
        .map_err(|mistakes| Error::Usage(format!("mistakes in {file}\n{}", mistakes.join("\n"))))
}

/// Runs the samples and says what came of each.
///
/// # Errors
/// When one of them differs.
pub fn check(sandbox: &Sandbox, built: &Built, file: &Path, samples: &Samples) -> anyhow::Result<()> {
    let handler = sandbox
        .handler(built, &samples.subscription, &samples.fields)
        .with_context(|| format!("a subscription as {} describes it", file.display()))?;
    let mut failed = 0;
    for ran in samples.run(&*handler) {
        let sample = ran.sample;
        if ran.difference.is_empty() {
            print(&format!("ok    {}\n", sample.name))?;
            continue;
        }
        failed += 1;
        let mut told = format!("FAIL  {}  ({}:{})\n", sample.name, file.display(), sample.line);
        for line in ran.difference.lines().map(str::to_owned).chain(brolly_samples::logged(&ran.logs)) {
            told.push_str(&format!("        {line}\n"));
        }
        print(&told)?;
    }
    let all = samples.samples.len();
    print(&format!("{} passed, {failed} failed\n", all - failed))?;
    if failed > 0 {
        bail!("{failed} of {all} samples differ: - is what is expected, + what happened");
    }
    Ok(())
}
