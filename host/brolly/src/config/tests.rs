//! Sources, mistakes, and the help that names every setting.

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
        let is = |line: &str| line.split(" = ").next().and_then(|key| key.rsplit('.').next()) == Some(name);
        let shown = file.lines().any(is);
        assert!(shown, "{key} is missing in the help");
    }
}

#[test]
fn a_collector_is_named_with_or_without_its_path() {
    let otlp = |endpoint: &str, sampling: &str| {
        let file = format!("[telemetry.otlp]\nendpoint = '{endpoint}'\nsampling = {sampling}");
        load(&file, &[], None)
            .map(|config| config.otlp.map(|otlp| (otlp.endpoint.to_string(), otlp.sampling)))
    };
    for (given, expect) in [
        ("http://c:4318", "http://c:4318/v1/traces"),
        ("https://c/", "https://c/v1/traces"),
        ("http://c/otel/", "http://c/otel/v1/traces"),
        ("http://c/otel/v1/traces", "http://c/otel/v1/traces"),
    ] {
        assert_eq!(otlp(given, "0.5").unwrap(), Some((expect.to_owned(), 0.5)), "{given}");
    }
    assert_eq!(otlp("", "1").unwrap(), None);
    for (endpoint, sampling, expect) in [
        ("c:4318", "1", "telemetry.otlp.endpoint"),
        ("nowhere", "1", "telemetry.otlp.endpoint"),
        ("http://c", "1.01", "telemetry.otlp.sampling"),
        ("http://c", "-0.01", "allowed are 0 to 1"),
    ] {
        let mistakes = otlp(endpoint, sampling).unwrap_err();
        assert!(mistakes.contains(expect), "{mistakes}");
    }
}

#[test]
fn a_certificate_needs_its_key() {
    let tls = |file: &str| load(file, &[], None).map(|config| config.tls);
    let both = tls("[admin]\ntls = { cert = 'c.pem', key = 'k.pem' }").unwrap().unwrap();
    assert_eq!((both.cert, both.key), ("c.pem".into(), "k.pem".into()));
    assert_eq!(tls("[admin.tls]\ncert = ''\nkey = ''").unwrap(), None);
    for (given, missing) in [("cert", "admin.tls.key"), ("key", "admin.tls.cert")] {
        let mistakes = tls(&format!("[admin.tls]\n{given} = 'x.pem'")).unwrap_err();
        assert!(mistakes.contains(&format!("{missing}: is missing")), "{mistakes}");
    }
    assert!(tls("[admin.tls]\nca = 'x'").unwrap_err().contains("admin.tls.ca"));
}

#[test]
fn flags_go_over_the_environment_and_that_over_the_file() {
    let file =
        "listen = '127.0.0.1:1'\ndata_dir = '/file'\n[store]\ncache_bytes = 2000000\n[log]\nformat = 'json'";
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
