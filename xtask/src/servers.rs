//! The servers, the browser and the programs for file systems that tests use: whether they are installed, and how they
//! come to be.

use std::{
    env,
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
};

use crate::{debian, tree};

/// Each with its program, by which it is recognised, and its package, which names its service as well
/// where it has one.
const SERVERS: [Server; 5] = [
    Server { program: "rabbitmq-server", package: "rabbitmq-server", is_service: true },
    Server { program: "redis-server", package: "redis-server", is_service: true },
    // Brings the browser along.
    Server { program: "chromedriver", package: "chromium-driver", is_service: false },
    // For power cuts on these file systems.
    Server { program: "mkfs.ext4", package: "e2fsprogs", is_service: false },
    Server { program: "mkfs.xfs", package: "xfsprogs", is_service: false },
];

struct Server {
    program: &'static str,
    package: &'static str,
    is_service: bool,
}

/// Where Erlang's port mapper listens unless it is told otherwise.
const EPMD_PORT: u16 = 4369;

/// Installs the servers that are missing; where that is not possible, says what will not be tested.
pub(crate) fn provide() {
    for Server { program, package, is_service } in SERVERS {
        if is_there(program) {
            continue;
        }
        let had_epmd = epmd_runs();
        match debian::install(&[package]) {
            Ok(()) if is_service => stop(package, had_epmd),
            Ok(()) => {}
            Err(why) => eprintln!("no {program}, so what needs it is not tested: {why:#}"),
        }
    }
}

fn is_there(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = ["/usr/bin", "/usr/sbin", "/sbin", "/usr/lib/rabbitmq/bin"].map(PathBuf::from);
    env::split_paths(&path).chain(folders).any(|folder| folder.join(program).is_file())
}

/// Stops the service that a package has started, as Debian's do, for nobody asked for it. The service
/// was not there before, so this ends nothing that anybody uses.
fn stop(service: &str, had_epmd: bool) {
    if Path::new("/usr/sbin/invoke-rc.d").exists()
        && !tree::succeeds(Command::new("invoke-rc.d").args([service, "stop"]))
    {
        eprintln!("{service} may still run as a service");
    }
    // RabbitMQ leaves it behind. It refuses while nodes of others are registered.
    if !had_epmd && epmd_runs() {
        tree::succeeds(Command::new("epmd").arg("-kill"));
    }
}

fn epmd_runs() -> bool {
    TcpStream::connect((Ipv4Addr::LOCALHOST, EPMD_PORT)).is_ok()
}
