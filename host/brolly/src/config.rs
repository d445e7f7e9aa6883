//! The configuration of `brolly serve`: read once, here and nowhere else, from the defaults, the
//! file, the environment and the flags, each going over the one before. All mistakes are reported
//! together, each with its key path and where it stands.
//!
//! Called by [`crate::serve`]; knows every crate's own settings and their ranges, and nothing of
//! what is done with them.

use std::{
    collections::BTreeSet,
    fmt,
    net::{Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use figment::{
    Figment, Metadata, Profile, Provider,
    providers::{Format, Toml},
    value::{Dict, Map, Value},
};
use serde::{Deserialize, de::DeserializeOwned};
use tracing_subscriber::EnvFilter;

/// What begins every environment variable that is a setting.
const PREFIX: &str = "BROLLY_";

/// The settings and their defaults, as `brolly serve --help` shows them.
pub const HELP: &str = "\
Settings, as they stand in the TOML file (times in milliseconds):
  data_dir = \"./brolly-data\"          listen = \"127.0.0.1:7070\"
  [store]     engine = \"sled\" | \"redb\"  what keeps the rows; `brolly store copy` goes from one to the other
              cache_bytes = 67108864    memory for pages read from the disk
  [embedded]  min_free_bytes = 268435456  publishes are refused while the disk has less free space
              publish_bytes = 134217728   payloads of publishes that are not yet durable
  [runtime]   max_instances = 1024      plugin instances at the same time
  [history]   keep_ms = 604800000       how long messages, their history and their ids are kept
  [admin]     connections = 1024        requests = 512        body_memory_mib = 512
              read_ms = 30000           change_ms = 3600000   body_idle_ms = 30000
              idle_ms = 60000           how long a connection may be open without a whole request head
              drain_ms = 10000          how long requests may take to finish at a stop
              session_ms = 43200000     how long a session of the console lasts
              streams = 64              consoles that may be open at the same time
  [log]       format = \"text\" | \"json\"  filter = \"info\"
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
    /// `[history]`
    pub dispatch: brolly_dispatch::Config,
    /// `[admin]`
    pub admin: brolly_admin::Config,
    /// `[log]`
    pub log: Log,
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
        let filter = settings.parsed("log.filter", "info".to_owned(), |text| {
            let known = EnvFilter::try_new(text).map(|_| text.to_owned());
            known.map_err(|error| format!("a filter such as info,brolly_dispatch=debug ({error})"))
        });
        let log = Log { format: settings.value("log.format", LogFormat::Text), filter };
        let drain = Duration::from_millis(settings.range("drain.max_ms", 25_000, 0..=3_600_000));
        let admin = admin(settings);
        Self { data_dir, listen, store, embedded, runtime, dispatch, admin, log, drain }
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

/// The merged sources, read key by key so that one mistake does not hide the next.
struct Settings {
    figment: Figment,
    known: BTreeSet<&'static str>,
    mistakes: Vec<String>,
}

impl Settings {
    fn open(
        flags: &Flags,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Mistakes> {
        let mut figment = Figment::new();
        if let Some(file) = &flags.config {
            // Figment takes a file that is missing for an empty one.
            std::fs::metadata(file)
                .map_err(|error| Mistakes(vec![format!("{} cannot be read: {error}", file.display())]))?;
            figment = figment.merge(Toml::file_exact(file));
        }
        figment = figment.merge(Layer::environment(environment)).merge(Layer::flags(flags));
        match figment.extract::<Dict>() {
            Ok(_) => Ok(Self { figment, known: BTreeSet::new(), mistakes: Vec::new() }),
            Err(errors) => Err(Mistakes(errors.into_iter().map(|error| error.to_string()).collect())),
        }
    }

    /// The value of a key.
    fn value<T: DeserializeOwned>(&mut self, key: &'static str, default: T) -> T {
        self.known.insert(key);
        if !self.figment.contains(key) {
            return default;
        }
        // Lossy: what comes from the environment is text, whatever it is to become.
        match self.figment.extract_inner_lossy(key) {
            Ok(value) => value,
            Err(errors) => {
                for error in errors {
                    self.mistake(key, error.kind.to_string());
                }
                default
            }
        }
    }

    /// The value of a key that must lie in a range.
    fn range<T>(&mut self, key: &'static str, default: T, allowed: RangeInclusive<T>) -> T
    where
        T: DeserializeOwned + PartialOrd + Copy + fmt::Display,
    {
        let value = self.value(key, default);
        if allowed.contains(&value) {
            return value;
        }
        self.mistake(key, format!("is {value}, allowed are {} to {}", allowed.start(), allowed.end()));
        default
    }

    /// The value of a key whose text is to be understood; `parse` answers with what is expected
    /// instead.
    fn parsed<T>(
        &mut self,
        key: &'static str,
        default: T,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> T {
        let Some(text) = self.value::<Option<String>>(key, None) else { return default };
        parse(&text).unwrap_or_else(|expected| {
            self.mistake(key, format!("is {text:?}, expected is {expected}"));
            default
        })
    }

    fn mistake(&mut self, key: &str, what: String) {
        let source = self.source(key);
        self.mistakes.push(format!("{key}{source}: {what}"));
    }

    /// Where a key stands.
    fn source(&self, key: &str) -> String {
        let Some(metadata) = self.figment.find_metadata(key) else { return String::new() };
        match &metadata.source {
            Some(source) => format!(" (in {source})"),
            None => format!(" (in {})", metadata.name),
        }
    }

    /// All mistakes, with the keys that mean nothing.
    fn finish(mut self) -> Result<(), Mistakes> {
        let mut present = Vec::new();
        if let Ok(all) = self.figment.extract::<Dict>() {
            leaves(&all, "", &mut present);
        }
        for key in present {
            if !self.known.contains(key.as_str()) {
                let section = key.split_once('.').map_or("", |(section, _)| section);
                let siblings = self.known.iter().filter(|known| match known.split_once('.') {
                    Some((of, _)) => of == section,
                    None => section.is_empty(),
                });
                let known: Vec<&str> = siblings.copied().collect();
                let hint =
                    if known.is_empty() { String::new() } else { format!("; there is {}", known.join(", ")) };
                self.mistake(&key, format!("there is no such setting{hint}"));
            }
        }
        if self.mistakes.is_empty() { Ok(()) } else { Err(Mistakes(self.mistakes)) }
    }
}

/// The key paths of everything that is not a section.
fn leaves(dict: &Dict, path: &str, found: &mut Vec<String>) {
    for (key, value) in dict {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match value {
            Value::Dict(_, inner) => leaves(inner, &path, found),
            Value::String(..)
            | Value::Char(..)
            | Value::Bool(..)
            | Value::Num(..)
            | Value::Empty(..)
            | Value::Array(..) => found.push(path),
        }
    }
}

/// Settings from somewhere else than a file.
struct Layer {
    name: &'static str,
    settings: Vec<(String, String)>,
}

impl Layer {
    /// `BROLLY_LISTEN`, `BROLLY_DATA_DIR`, and `BROLLY_SECTION__KEY` for the rest. Other variables
    /// with the prefix are not ours to judge: clients have some, and Kubernetes makes some for every
    /// service that is named brolly.
    fn environment(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let setting = |(name, value): (String, String)| {
            let key = name.strip_prefix(PREFIX)?.to_ascii_lowercase();
            let ours = key.contains("__") || key == "listen" || key == "data_dir";
            ours.then(|| (key.replace("__", "."), value))
        };
        Self {
            name: "the environment, BROLLY_SECTION__KEY",
            settings: variables.into_iter().filter_map(setting).collect(),
        }
    }

    fn flags(flags: &Flags) -> Self {
        let data_dir = flags.data_dir.as_ref().map(|dir| dir.to_string_lossy().into_owned());
        let all = [("data_dir", data_dir), ("listen", flags.listen.clone())];
        let given = all.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
        Self { name: "the command line", settings: given.collect() }
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name)
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let mut dict = Dict::new();
        for (key, value) in &self.settings {
            insert(&mut dict, key, value);
        }
        Ok(Map::from([(Profile::Default, dict)]))
    }
}

/// Puts a value at its key path. What stands in the way of a section is replaced by it.
fn insert(dict: &mut Dict, path: &str, value: &str) {
    let Some((section, rest)) = path.split_once('.') else {
        dict.insert(path.to_owned(), Value::from(value));
        return;
    };
    let inner = dict.entry(section.to_owned()).or_insert_with(|| Value::from(Dict::new()));
    if !matches!(inner, Value::Dict(..)) {
        *inner = Value::from(Dict::new());
    }
    if let Value::Dict(_, inner) = inner {
        insert(inner, rest, value);
    }
}

#[cfg(test)]
mod tests {
    use brolly_store::Engine;

    use super::*;

    fn load(file: &str, environment: &[(&str, &str)], listen: Option<&str>) -> Result<Config, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("brolly.toml");
        std::fs::write(&path, file).unwrap();
        let flags = Flags { config: Some(path), listen: listen.map(str::to_owned), ..Flags::default() };
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::load(&flags, environment).map_err(|mistakes| mistakes.to_string())
    }

    #[test]
    fn an_empty_configuration_is_the_defaults() {
        let config = load("", &[], None).unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:7070");
        assert_eq!(config.data_dir, Path::new("./brolly-data"));
        assert_eq!(config.store.dir, Path::new("./brolly-data/store"));
        assert_eq!(config.log, Log { format: LogFormat::Text, filter: "info".into() });
    }

    /// The help names every setting with its default, and none that does not exist: taken as the file
    /// that it describes, it is valid and changes nothing.
    #[test]
    fn the_help_has_every_setting_and_its_default() {
        let mut settings = Settings::open(&Flags::default(), []).unwrap();
        let defaults = Config::read(&mut settings);
        let mut file = String::new();
        for word in HELP.lines().filter(|line| line.starts_with("  ")) {
            let words: Vec<&str> = word.split_whitespace().collect();
            for (at, word) in words.iter().enumerate() {
                if word.starts_with('[') {
                    file.push_str(&format!("{word}\n"));
                }
                if *word == "=" {
                    file.push_str(&format!("{} = {}\n", words[at - 1], words[at + 1]));
                }
            }
        }
        let read = load(&file, &[], None).unwrap();
        assert_eq!(format!("{read:?}"), format!("{defaults:?}"));
        for key in settings.known {
            let name = key.rsplit('.').next().unwrap();
            let shown = file.lines().any(|line| line.starts_with(&format!("{name} = ")));
            assert!(shown, "{key} is missing in the help");
        }
    }

    #[test]
    fn flags_go_over_the_environment_and_that_over_the_file() {
        let file = "listen = '127.0.0.1:1'\ndata_dir = '/file'\n[store]\ncache_bytes = 2000000\n[log]\nformat = 'json'";
        let environment = [
            ("BROLLY_LISTEN", "127.0.0.1:2"),
            ("BROLLY_DATA_DIR", "123"),
            ("BROLLY_STORE__CACHE_BYTES", "3000000"),
            ("BROLLY_STORE__ENGINE", "redb"),
            ("BROLLY_ADMIN__IDLE_MS", "1500"),
        ];
        let config = load(file, &environment, Some("127.0.0.1:3")).unwrap();
        assert_eq!(config.listen.port(), 3);
        assert_eq!(config.data_dir, Path::new("123"));
        assert_eq!((config.store.cache_bytes, config.store.engine), (3_000_000, Engine::Redb));
        assert_eq!((config.admin.idle_ms, config.admin.body_idle_ms), (1_500, 30_000));
        assert_eq!(config.log.format, LogFormat::Json);
    }

    #[test]
    fn all_mistakes_at_once_each_with_its_key_and_its_place() {
        let file = "speed = 'fast'\n[store]\ncache_bytes = 'much'\nengine = 'fast'\ncash_bytes = 1\n[log]\nformat = 'xml'\n\
                    filter = 'a=b=c'\n[runtime]\nmax_instances = 15";
        let environment = [
            ("BROLLY_HISTORY__KEEP_MS", "-1"),
            ("BROLLY_EMBEDED__X", "1"),
            ("BROLLY_PORT_7070_TCP", "tcp://10.0.0.1:7070"),
            ("BROLLY_TOKEN", "secret"),
        ];
        let mistakes = load(file, &environment, Some("localhost")).unwrap_err();
        for expected in [
            "speed (in ",
            "store.cache_bytes (in ",
            "store.engine (in ",
            "store.cash_bytes",
            "there is store.cache_bytes, store.engine",
            "found `fast`, expected ``sled` or `redb``",
            "log.format",
            "log.filter",
            "runtime.max_instances",
            "allowed are 16 to 16384",
            "history.keep_ms (in the environment",
            "embeded.x (in the environment",
            "listen (in the command line): is \"localhost\", expected is an IP address",
        ] {
            assert!(mistakes.contains(expected), "{expected:?} is not in:\n{mistakes}");
        }
        assert_eq!(mistakes.lines().count(), 1 + 10, "{mistakes}");
        assert!(!mistakes.contains("secret"), "{mistakes}");
    }

    #[test]
    fn a_file_that_is_missing_or_no_toml_is_a_mistake() {
        let missing = Flags { config: Some("/nowhere/brolly.toml".into()), ..Flags::default() };
        let mistakes = Config::load(&missing, []).unwrap_err().to_string();
        assert!(mistakes.contains("/nowhere/brolly.toml cannot be read"), "{mistakes}");
        assert!(load("listen = ", &[], None).unwrap_err().contains("brolly.toml"));
        assert!(load("store = 5", &[], None).unwrap_err().contains("store (in "));
    }
}
