//! The configuration of `brolly serve`: read once, here and nowhere else, from the defaults, the
//! file, the environment and the flags, each going over the one before. All mistakes are reported
//! together, each with its key path and where it stands.
//!
//! Called by [`crate::serve`]; knows every crate's own settings and their ranges, and nothing of
//! what is done with them.

mod settings;

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use reqwest::Url;
use serde::Deserialize;
use tracing_subscriber::EnvFilter;

use settings::Settings;

/// The path that collectors have for traces.
const OTLP_TRACES: &str = "/v1/traces";

/// The settings and their defaults, as `brolly serve --help` shows them.
pub const HELP: &str = "\
Settings, as they stand in the TOML file (times in milliseconds):
  data_dir = \"./brolly-data\"          listen = \"127.0.0.1:7070\"
  [store]     engine = \"sled\" | \"redb\"  what keeps the rows; `brolly store copy` goes from one to the other
              cache_bytes = 67108864    memory for pages read from the disk
  [embedded]  min_free_bytes = 268435456  publishes are refused while the disk has less free space
              publish_bytes = 134217728   payloads of publishes that are not yet durable
  [runtime]   max_instances = 1024      plugin instances at the same time
  [backup]    dir = \"./brolly-data/backups\"  below data_dir; where `brolly backup` puts its copies
  [history]   keep_ms = 604800000       how long messages, their history and their ids are kept
  [admin]     connections = 1024        requests = 512        body_memory_mib = 512
              read_ms = 30000           change_ms = 3600000   body_idle_ms = 30000
              idle_ms = 60000           how long a connection may be open without a whole request head
              drain_ms = 10000          how long requests may take to finish at a stop
              session_ms = 43200000     how long a session of the console lasts
              streams = 64              consoles that may be open at the same time
              tls.cert = \"\"             tls.key = \"\"   PEM files to serve HTTPS with; read again when they change
  [log]       format = \"text\" | \"json\"  filter = \"info\"
  [telemetry] otlp.endpoint = \"\"        where traces go, such as \"http://127.0.0.1:4318\"; none without
              otlp.sampling = 1.0       of how many traces that begin here, 0.0 to 1.0
  [drain]     max_ms = 25000            how long handlers may take to finish at a stop
In the environment: BROLLY_DATA_DIR, BROLLY_LISTEN, and BROLLY_SECTION__KEY for the rest.";

/// Everything that can be set.
#[derive(Clone, Debug)]
pub struct Config {
    /// The data directory; everything durable lies in it.
    pub data_dir: PathBuf,
    /// Where HTTP is served; port 0 takes a free one.
    pub listen: SocketAddr,
    /// `[store]`
    pub store: brolly_store::Config,
    /// `[embedded]`
    pub embedded: brolly_embedded::Config,
    /// `[runtime]`
    pub runtime: brolly_runtime::Config,
    /// `[history]` and `[backup]`
    pub dispatch: brolly_dispatch::Config,
    /// `[admin]`
    pub admin: brolly_admin::Config,
    /// `[admin] tls`
    pub tls: Option<brolly_admin::TlsFiles>,
    /// `[log]`
    pub log: Log,
    /// `[telemetry] otlp`
    pub otlp: Option<Otlp>,
    /// `[drain] max_ms`: how long a stop waits for handlers that run. What is cut off then is
    /// handled again at the next start.
    pub drain: Duration,
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// The form of a line.
    pub format: LogFormat,
    /// Which lines, in the syntax of tracing's `EnvFilter`, such as `info,brolly_dispatch=debug`.
    pub filter: String,
}

/// Where traces go.
#[derive(Clone, Debug, PartialEq)]
pub struct Otlp {
    /// The collector's address for traces in protobuf over HTTP, with its path.
    pub endpoint: Url,
    /// How many of the traces that begin here are sampled, 0.0 to 1.0. One that was begun elsewhere is
    /// sampled if it is there.
    pub sampling: f64,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The settings that have a flag.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--config`
    pub config: Option<PathBuf>,
    /// `--data-dir`
    pub data_dir: Option<PathBuf>,
    /// `--listen`
    pub listen: Option<String>,
}

/// Everything that is wrong with a configuration, one line each.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub struct Mistakes(pub Vec<String>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the configuration is not valid:")?;
        self.0.iter().try_for_each(|mistake| write!(f, "\n  {mistake}"))
    }
}

impl Config {
    /// Reads the configuration.
    ///
    /// # Errors
    /// Every mistake that there is.
    pub fn load(
        flags: &Flags,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Mistakes> {
        let mut settings = Settings::open(flags, environment)?;
        let config = Self::read(&mut settings);
        settings.finish().map(|()| config)
    }

    fn read(settings: &mut Settings) -> Self {
        let data_dir = settings.value("data_dir", PathBuf::from("./brolly-data"));
        let listen = settings.parsed("listen", SocketAddr::from((Ipv4Addr::LOCALHOST, 7070)), |text| {
            text.parse().map_err(|_| "an IP address with a port, such as 127.0.0.1:7070".to_owned())
        });
        let mut store = brolly_store::Config::new(data_dir.join("store"));
        store.engine = settings.value("store.engine", store.engine);
        store.cache_bytes = settings.range("store.cache_bytes", store.cache_bytes, 1 << 20..=1 << 40);
        let mut embedded = brolly_embedded::Config::default();
        embedded.min_free_bytes =
            settings.range("embedded.min_free_bytes", embedded.min_free_bytes, 0..=1 << 50);
        // One message of the greatest size must fit.
        embedded.publish_bytes =
            settings.range("embedded.publish_bytes", embedded.publish_bytes, 17 << 20..=1 << 29);
        let mut runtime = brolly_runtime::Config::new(data_dir.join("cache"));
        runtime.max_instances = settings.range("runtime.max_instances", runtime.max_instances, 16..=16_384);
        let mut dispatch = brolly_dispatch::Config::default();
        let ten_years = 10 * 366 * 24 * 60 * 60 * 1000;
        dispatch.history_ms = settings.range("history.keep_ms", dispatch.history_ms, 60_000..=ten_years);
        dispatch.captures = Some(data_dir.join("captures"));
        dispatch.backups = Some(settings.value("backup.dir", data_dir.join("backups")));
        let filter = settings.parsed("log.filter", "info".to_owned(), |text| {
            let known = EnvFilter::try_new(text).map(|_| text.to_owned());
            known.map_err(|error| format!("a filter such as info,brolly_dispatch=debug ({error})"))
        });
        let log = Log { format: settings.value("log.format", LogFormat::Text), filter };
        let drain = Duration::from_millis(settings.range("drain.max_ms", 25_000, 0..=3_600_000));
        let (admin, tls, otlp) = (admin(settings), tls(settings), otlp(settings));
        Self { data_dir, listen, store, embedded, runtime, dispatch, admin, tls, log, otlp, drain }
    }

    /// Reads the configuration with the environment of this process.
    ///
    /// # Errors
    /// Every mistake that there is.
    pub fn of_this_process(flags: &Flags) -> Result<Self, Mistakes> {
        let variables = std::env::vars_os();
        Self::load(flags, variables.filter_map(|(n, v)| Some((n.into_string().ok()?, v.into_string().ok()?))))
    }

    /// Where uploaded plugins lie.
    #[must_use]
    pub fn plugins_dir(&self) -> PathBuf {
        self.data_dir.join("plugins")
    }

    /// Where the first admin token lies.
    #[must_use]
    pub fn token_file(&self) -> PathBuf {
        token_file(&self.data_dir)
    }
}

/// Where the first admin token of a data directory lies.
#[must_use]
pub fn token_file(data_dir: &Path) -> PathBuf {
    data_dir.join("admin.token")
}

fn admin(settings: &mut Settings) -> brolly_admin::Config {
    let mut admin = brolly_admin::Config::default();
    let longest = 24 * 60 * 60 * 1000;
    admin.connections = settings.range("admin.connections", admin.connections, 1..=1_000_000);
    admin.idle_ms = settings.range("admin.idle_ms", admin.idle_ms, 100..=longest);
    admin.requests = settings.range("admin.requests", admin.requests, 1..=100_000);
    // The largest body, of a bulk publish, is given all that there is.
    admin.body_memory_mib = settings.range("admin.body_memory_mib", admin.body_memory_mib, 16..=1 << 20);
    admin.read_ms = settings.range("admin.read_ms", admin.read_ms, 100..=longest);
    admin.change_ms = settings.range("admin.change_ms", admin.change_ms, 100..=longest);
    admin.body_idle_ms = settings.range("admin.body_idle_ms", admin.body_idle_ms, 100..=longest);
    admin.drain_ms = settings.range("admin.drain_ms", admin.drain_ms, 0..=longest);
    admin.session_ms = settings.range("admin.session_ms", admin.session_ms, 60_000..=longest);
    admin.streams = settings.range("admin.streams", admin.streams, 1..=10_000);
    admin
}

/// Neither file, or both.
fn tls(settings: &mut Settings) -> Option<brolly_admin::TlsFiles> {
    let cert = settings.value("admin.tls.cert", PathBuf::new());
    let key = settings.value("admin.tls.key", PathBuf::new());
    let missing = |file: &Path| file.as_os_str().is_empty();
    match (missing(&cert), missing(&key)) {
        (true, true) => None,
        (false, false) => Some(brolly_admin::TlsFiles { cert, key }),
        (absent, _) => {
            let key = if absent { "admin.tls.cert" } else { "admin.tls.key" };
            settings.mistake(key, "is missing: TLS needs a certificate and its key".to_owned());
            None
        }
    }
}

/// A collector is named by its address; the path for traces, which all have, may be left out.
fn otlp(settings: &mut Settings) -> Option<Otlp> {
    let sampling = settings.range("telemetry.otlp.sampling", 1.0, 0.0..=1.0);
    let endpoint = settings.parsed("telemetry.otlp.endpoint", None, |text| {
        if text.is_empty() {
            return Ok(None);
        }
        let expected = "an address such as http://127.0.0.1:4318".to_owned();
        match Url::parse(text) {
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(Some(url)),
            Ok(_) | Err(_) => Err(expected),
        }
    });
    let mut endpoint = endpoint?;
    if !endpoint.path().ends_with(OTLP_TRACES) {
        let path = format!("{}{OTLP_TRACES}", endpoint.path().trim_end_matches('/'));
        endpoint.set_path(&path);
    }
    Some(Otlp { endpoint, sampling })
}

#[cfg(test)]
mod tests;
