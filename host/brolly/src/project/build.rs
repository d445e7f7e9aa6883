//! `brolly build`: the plugin of a project, ready to be uploaded.

use std::path::PathBuf;

use super::{cargo::Project, sandbox::Built};
use crate::client::print;

/// Build the plugin of a project to target/brolly/NAME.wasm, and check that a host takes it.
///
/// The result is a component for wasm32-unknown-unknown. Equal sources, dependencies and compilers give
/// an equal file, and so the same version.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The project's folder.
    #[arg(long, value_name = "DIR", default_value = ".")]
    project: PathBuf,
}

/// Builds.
///
/// # Errors
/// As [`Project::find`] and [`Project::build`].
pub fn run(args: &Args) -> anyhow::Result<()> {
    let built = Project::find(&args.project)?.build()?;
    Ok(print(&shown(&built))?)
}

/// The version stands alone in the first line, for scripts.
pub fn shown(built: &Built) -> String {
    let interface = |import: &String| import.rsplit('/').next().unwrap_or(import).to_owned();
    let imports: Vec<String> = built.admission.imports.iter().map(interface).collect();
    format!(
        "{}\n{}  {} bytes, imports: {}\n",
        built.admission.digest,
        built.path.display(),
        built.admission.size_bytes,
        if imports.is_empty() { "none".to_owned() } else { imports.join(", ") },
    )
}
