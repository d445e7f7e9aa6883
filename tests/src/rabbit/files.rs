//! What lies in the folder of a RabbitMQ server of the tests, and where the installed one is found.

use std::{
    fmt::Write,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use super::{Options, Ports};
use crate::{certificates, process::find_program};

/// RabbitMQ's own default.
pub(super) const MEMORY_HIGH_WATERMARK: f64 = 0.4;

/// Plugins that come with the server and that we do without, beside those named `rabbitmq_…`. Erlang
/// looks for each module in folder after folder, so that half of a start is spent on these.
const NOT_NEEDED: [&str; 7] =
    ["accept", "amqp10_client", "base64url", "eetcd", "gun", "prometheus", "quantile_estimator"];

/// Plugins named `rabbitmq_…` that we need.
const NEEDED: [&str; 4] =
    ["rabbitmq_prelaunch", "rabbitmq_management", "rabbitmq_management_agent", "rabbitmq_web_dispatch"];

/// An installed RabbitMQ.
pub(super) struct Installation {
    /// The folder of its real scripts. What Debian has in `/usr/sbin` changes the user, and its folder
    /// of data, before it calls them.
    pub(super) programs: PathBuf,
    /// Erlang's port mapper.
    pub(super) epmd: PathBuf,
}

impl Installation {
    pub(super) fn find() -> Result<Self, String> {
        let folders = ["/usr/lib/rabbitmq/bin", "/usr/sbin", "/usr/local/sbin"];
        let server = find_program("rabbitmq-server", &folders).ok_or("rabbitmq-server is not installed")?;
        let server = server.canonicalize().map_err(|error| format!("{}: {error}", server.display()))?;
        let programs = server.parent().unwrap_or(Path::new("/")).to_owned();
        if !programs.join("../plugins").is_dir() {
            return Err(format!("{} lies beside no plugins", server.display()));
        }
        let epmd = find_program("epmd", &["/usr/lib/erlang/bin"]).ok_or("Erlang's epmd is not in PATH")?;
        Ok(Self { programs, epmd })
    }
}

/// Writes everything that a server reads when it starts.
pub(super) fn write(folder: &Path, installation: &Installation, ports: &Ports, options: &Options) {
    let write = |name: &str, text: &str| fs::write(folder.join(name), text).expect("the folder is ours");
    let plugins = if options.management { "[rabbitmq_management]." } else { "[]." };
    write("enabled_plugins", plugins);
    // Else the one in /etc would be read.
    write("rabbitmq-env.conf", "");
    write("rabbitmq.conf", &config(folder, ports, options));
    // Counts of quorum queues are five seconds old by default.
    write("advanced.config", "[{rabbit, [{quorum_tick_interval, 100}]}].");
    write(".erlang.cookie", "BROLLYTEST");
    fs::set_permissions(folder.join(".erlang.cookie"), fs::Permissions::from_mode(0o400))
        .expect("the file is ours");
    lean_home(folder, &installation.programs);
    if options.tls {
        certificates::write(folder);
    }
}

fn config(folder: &Path, ports: &Ports, options: &Options) -> String {
    let watermark = options.memory_high_watermark.unwrap_or(MEMORY_HIGH_WATERMARK);
    let mut config = format!(
        "listeners.tcp.1 = 127.0.0.1:{}\n\
         log.file = false\n\
         log.console = true\n\
         log.console.level = info\n\
         log.console.use_colors = off\n\
         disk_free_limit.absolute = 1MB\n\
         vm_memory_high_watermark.relative = {watermark}\n\
         max_message_size = 134217728\n",
        ports.amqp
    );
    if options.tls {
        let folder = folder.display();
        let _ = write!(
            config,
            "listeners.ssl.1 = 127.0.0.1:{}\n\
             ssl_options.cacertfile = {folder}/ca.pem\n\
             ssl_options.certfile = {folder}/server.pem\n\
             ssl_options.keyfile = {folder}/server.key\n",
            ports.tls
        );
    }
    if options.management {
        let _ = write!(
            config,
            "management.tcp.ip = 127.0.0.1\n\
             management.tcp.port = {}\n\
             collect_statistics_interval = 500\n",
            ports.management
        );
    }
    config + &options.config.join("\n") + "\n"
}

/// A home for the server that leads to the installed one, without most of its plugins.
fn lean_home(folder: &Path, programs: &Path) {
    let installed = programs.parent().expect("a folder of programs lies in another");
    let home = folder.join("rabbitmq");
    fs::create_dir_all(home.join("plugins")).expect("the folder is ours");
    let link = |name: &Path| symlink(installed.join(name), home.join(name)).expect("the folder is ours");
    link(Path::new("sbin"));
    link(Path::new("escript"));
    for entry in fs::read_dir(installed.join("plugins")).expect("the plugins can be read") {
        let name = entry.expect("the plugins can be read").file_name();
        let name = name.to_string_lossy();
        let plugin = name.split('-').next().unwrap_or_default();
        if NEEDED.contains(&plugin) || !(plugin.starts_with("rabbitmq_") || NOT_NEEDED.contains(&plugin)) {
            link(&Path::new("plugins").join(&*name));
        }
    }
}
