//! axe-core, which finds what keeps people with disabilities out of a page. It comes from the npm
//! registry, once, into `target/axe`.

use std::{
    fs::{self, File},
    path::Path,
    process::{Command, Stdio},
};

use crate::{process::find_program, root};

/// The version.
const PACKAGE: &str = "axe-core@4.14.1";

/// The check, ready to run in a page.
#[derive(Debug)]
pub struct Axe {
    /// Its script.
    pub script: String,
}

impl Axe {
    /// Fetches it if need be.
    ///
    /// # Errors
    /// What is missing, or why it cannot be fetched.
    pub fn fetch() -> Result<Self, String> {
        let folder = root().join("target/axe");
        let script = folder.join("package/axe.min.js");
        let io = |error| format!("{}: {error}", folder.display());
        fs::create_dir_all(&folder).map_err(io)?;
        let lock = File::create(folder.join("lock")).map_err(io)?;
        lock.lock().map_err(io)?;
        if !script.exists() {
            fetch_into(&folder)?;
        }
        Ok(Self { script: fs::read_to_string(&script).map_err(io)? })
    }
}

/// npm checks what it fetches against the registry's own digest.
fn fetch_into(folder: &Path) -> Result<(), String> {
    let npm = find_program("npm", &[]).ok_or("npm is not in PATH")?;
    let packed = output(Command::new(npm).args(["pack", "--silent", PACKAGE]).current_dir(folder))?;
    let archive = packed.lines().next_back().unwrap_or_default().trim().to_owned();
    output(Command::new("tar").args(["-xzf", &archive]).current_dir(folder)).map(drop)
}

fn output(command: &mut Command) -> Result<String, String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(format!("{command:?}: {}", said.lines().next_back().unwrap_or_default()))
}
