//! Python with packages of its index, for tests that need a client which is not ours. Made once in
//! `target/python`, whichever test needs it first.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use crate::{process::find_program, root, skip};

/// How long a script may run.
const PATIENCE: Duration = Duration::from_secs(60);

/// An interpreter.
#[derive(Clone, Debug)]
pub struct Python {
    /// The program, which finds the packages by itself.
    pub program: PathBuf,
}

impl Python {
    /// An interpreter with these packages (`pika==1.3.2`), installed if need be. Without one it notes
    /// that `what` is skipped.
    pub async fn with(what: &str, packages: &[&str]) -> Option<Self> {
        let packages: Vec<String> = packages.iter().map(ToString::to_string).collect();
        let made = tokio::task::spawn_blocking(move || make(&root().join("target/python"), &packages));
        match made.await.expect("it does not panic") {
            Ok(program) => Some(Self { program }),
            Err(why) => {
                skip(what, &why);
                None
            }
        }
    }

    /// Runs a script, which finds the arguments in `sys.argv[1:]`.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn run(&self, script: &str, arguments: &[&str]) -> Output {
        self.run_within(PATIENCE, script, arguments).await
    }

    /// The same for one that may take longer.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn run_within(&self, limit: Duration, script: &str, arguments: &[&str]) -> Output {
        let mut command = tokio::process::Command::new(&self.program);
        command.args(["-c", script]).args(arguments).stdin(Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(limit, command.output()).await;
        output.expect("the script ends in time").expect("it can be started")
    }
}

/// Makes the interpreter, one process at a time, and answers with its program.
fn make(folder: &Path, packages: &[String]) -> Result<PathBuf, String> {
    let system = find_program("python3", &[]).ok_or("python3 is not in PATH")?;
    let io = |error| format!("{}: {error}", folder.display());
    fs::create_dir_all(folder).map_err(io)?;
    let lock = File::create(folder.join("lock")).map_err(io)?;
    lock.lock().map_err(io)?;
    let program = folder.join("bin/python");
    // Whoever was to make it may have been ended in the midst of it.
    let made = folder.join("made");
    if !made.exists() || !works(&program) {
        let _ = fs::remove_file(&made);
        create(folder, &system, &program)?;
        File::create(&made).map_err(io)?;
    }
    // Each package has a file, so that nothing is asked of the index a second time.
    let installed = folder.join("installed");
    fs::create_dir_all(&installed).map_err(io)?;
    let missing: Vec<&String> = packages.iter().filter(|package| !installed.join(package).exists()).collect();
    if !missing.is_empty() {
        let mut pip = Command::new(&program);
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
        if !folder.join("pyvenv.cfg").exists() {
            pip.arg("--upgrade").arg("--target").arg(packages_of(folder));
        }
        succeed(pip.args(&missing))?;
    }
    for package in missing {
        File::create(installed.join(package)).map_err(io)?;
    }
    Ok(program)
}

fn packages_of(folder: &Path) -> PathBuf {
    folder.join("packages")
}

/// A virtual environment; or, as Debian ships Python without that, a script which leads the system's
/// own interpreter to a folder of packages.
fn create(folder: &Path, system: &Path, program: &Path) -> Result<(), String> {
    let io = |error| format!("{}: {error}", folder.display());
    for old in ["bin", "installed", "packages", "lib", "include"] {
        let _ = fs::remove_dir_all(folder.join(old));
    }
    let Err(why) = succeed(Command::new(system).args(["-m", "venv"]).arg(folder)) else { return Ok(()) };
    let _ = fs::remove_file(folder.join("pyvenv.cfg"));
    let _ = fs::remove_dir_all(folder.join("bin"));
    if succeed(Command::new(system).args(["-m", "pip", "--version"])).is_err() {
        return Err(why);
    }
    fs::create_dir_all(folder.join("bin")).map_err(io)?;
    let quoted = |path: &Path| format!("'{}'", path.to_string_lossy().replace('\'', r"'\''"));
    let script =
        format!("#!/bin/sh\nPYTHONPATH={} exec {} \"$@\"\n", quoted(&packages_of(folder)), quoted(system));
    File::create(program).and_then(|mut file| file.write_all(script.as_bytes())).map_err(io)?;
    fs::set_permissions(program, fs::Permissions::from_mode(0o755)).map_err(io)
}

fn works(program: &Path) -> bool {
    // The interpreter that it was made with may be gone.
    program.exists() && succeed(Command::new(program).args(["-c", ""])).is_ok()
}

fn succeed(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
    Err(format!("{command:?}: {last}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A `python3` as Debian ships it, when `venv` is not installed.
    fn without_venv(folder: &Path) -> PathBuf {
        let program = folder.join("python3");
        let script = "#!/bin/sh\n[ \"$2\" = venv ] && exit 1\nexec python3 \"$@\"\n";
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        program
    }

    #[test]
    fn what_was_left_half_made_is_made_anew() {
        let Some(system) = find_program("python3", &[]) else {
            return skip("Python that is half made", "python3 is not in PATH");
        };
        let folder = tempfile::tempdir().unwrap();
        let bin = folder.path().join("bin");
        fs::create_dir(&bin).unwrap();
        // It runs, and has no packages.
        std::os::unix::fs::symlink(&system, bin.join("python")).unwrap();
        fs::create_dir(folder.path().join("installed")).unwrap();
        File::create(folder.path().join("installed/there")).unwrap();
        match make(folder.path(), &[]) {
            Ok(program) => {
                assert!(folder.path().join("made").exists());
                assert!(!folder.path().join("installed/there").exists());
                assert!(works(&program));
            }
            Err(why) => skip("Python that is half made", &why),
        }
    }

    #[test]
    fn without_venv_a_script_leads_to_the_packages() {
        if find_program("python3", &[]).is_none() {
            return skip("Python without venv", "python3 is not in PATH");
        }
        let folder = tempfile::tempdir().unwrap();
        let system = without_venv(folder.path());
        if succeed(Command::new(&system).args(["-m", "pip", "--version"])).is_err() {
            return skip("Python without venv", "python3 has no pip");
        }
        let program = folder.path().join("bin/python");
        create(folder.path(), &system, &program).unwrap();
        assert!(works(&program));
        fs::create_dir_all(packages_of(folder.path())).unwrap();
        fs::write(packages_of(folder.path()).join("there.py"), "answer = 42").unwrap();
        let script = "import there, sys; sys.exit(there.answer)";
        assert_eq!(Command::new(&program).args(["-c", script]).status().unwrap().code(), Some(42));
    }
}
