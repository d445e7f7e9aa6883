//! The document of `brolly apply`: read, checked against the definitions of the core, and brought
//! into the form in which the server keeps it, so that two of them can be compared.
//!
//! Knows files; knows nothing of the server.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
};

use brolly_core::{BrokerDefinition, Channel, Digest, Name, Queue, Refusal, Route, Subscription, Topic};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeOwned, Error as _, Visitor, value::Error as Stop},
    forward_to_deserialize_any,
};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use crate::client::{Error, error};

/// The kinds of definitions, in an order in which none refers to a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Broker,
    Channel,
    Topic,
    Queue,
    Route,
    Subscription,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 6] =
        [Kind::Broker, Kind::Channel, Kind::Topic, Kind::Queue, Kind::Route, Kind::Subscription];

    /// The word in paths and documents.
    #[must_use]
    pub const fn plural(self) -> &'static str {
        match self {
            Kind::Broker => "brokers",
            Kind::Channel => "channels",
            Kind::Topic => "topics",
            Kind::Queue => "queues",
            Kind::Route => "routes",
            Kind::Subscription => "subscriptions",
        }
    }

    /// Of what the server shows, what belongs to the definition.
    #[must_use]
    pub fn definition_in(self, shown: &Value) -> Value {
        let names = match self {
            // Their further settings are any, or many.
            Kind::Broker | Kind::Channel => {
                let all = shown.as_object().into_iter().flatten();
                let own = all.filter(|(name, _)| !ALSO_SHOWN.contains(&name.as_str()));
                return own.map(|(name, value)| (name.clone(), value.clone())).collect();
            }
            Kind::Topic => fields::<Topic>(),
            Kind::Queue => fields::<Queue>(),
            Kind::Route => fields::<Route>(),
            Kind::Subscription => fields::<Subscription>(),
        };
        let pair = |name: &&str| Some(((*name).to_owned(), shown.get(*name)?.clone()));
        Value::Object(names.iter().filter_map(pair).collect())
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.plural().trim_end_matches('s'))
    }
}

/// What the server shows of a broker or a channel beyond its definition.
const ALSO_SHOWN: [&str; 6] = ["name", "revision", "created_at_ms", "changed_at_ms", "status", "health"];

/// The names of a definition's fields, as its deserializer asks for them.
fn fields<T: DeserializeOwned>() -> &'static [&'static str] {
    struct Asked<'a>(&'a mut &'static [&'static str]);

    impl<'de> Deserializer<'de> for Asked<'_> {
        type Error = Stop;

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Stop> {
            Err(Stop::custom("a definition is a struct"))
        }

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            _: V,
        ) -> Result<V::Value, Stop> {
            *self.0 = fields;
            Err(Stop::custom("the names are all that is wanted"))
        }

        forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
            unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }

    let mut names: &'static [&'static str] = &[];
    // Always an error: nothing is ever deserialized.
    let _ = T::deserialize(Asked(&mut names));
    names
}

/// Everything that a document wants, in the order in which it can be made.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Plugin versions.
    pub plugins: Vec<WantedPlugin>,
    /// Definitions.
    pub definitions: BTreeMap<(Kind, String), Definition>,
    /// Every plugin that is named anywhere.
    pub plugin_names: BTreeSet<String>,
}

/// A definition that the server is to have.
#[derive(Clone, Debug, PartialEq)]
pub struct Definition {
    /// What the document says.
    pub given: Value,
    /// The same with every default filled in, as the server keeps it.
    pub full: Value,
}

/// A plugin version that the server is to have.
#[derive(Clone, Debug)]
pub struct WantedPlugin {
    /// The plugin.
    pub name: String,
    /// The version.
    pub digest: Digest,
    /// Its bytes.
    pub wasm: Vec<u8>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Document {
    /// The broker of topics and queues that name none.
    broker: Option<String>,
    brokers: BTreeMap<String, Value>,
    channels: BTreeMap<String, Value>,
    topics: BTreeMap<String, Value>,
    queues: BTreeMap<String, Value>,
    routes: BTreeMap<String, Value>,
    subscriptions: BTreeMap<String, Map<String, Value>>,
    plugins: BTreeMap<String, PluginFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PluginFile {
    /// Relative to the document.
    file: PathBuf,
}

impl Wanted {
    /// Reads a document and the plugins that it names.
    ///
    /// # Errors
    /// Everything that is wrong with it, in one.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let bytes = error::read(path)?;
        let shown = path.display();
        let text = String::from_utf8(bytes).map_err(|_| Error::Usage(format!("{shown} is not UTF-8")))?;
        let document = parse(path, &text).map_err(|why| Error::Usage(format!("{shown}: {why}")))?;
        Self::from_document(document, path.parent().unwrap_or(Path::new("")))
            .map_err(|mistakes| Error::Usage(format!("{shown} is not valid:\n  {}", mistakes.join("\n  "))))
    }

    fn from_document(document: Document, folder: &Path) -> Result<Self, Vec<String>> {
        let mut wanted = Self::default();
        let mut mistakes = Vec::new();
        for (name, plugin) in document.plugins {
            let read = checked_name(&name).and_then(|()| wanted.plugin(&name, &folder.join(plugin.file)));
            mistakes.extend(read.err().map(|why| format!("plugins.{name}: {why}")));
        }
        for (name, value) in document.brokers {
            wanted.add::<BrokerDefinition>(Kind::Broker, name, value, |_| Ok(()), &mut mistakes);
        }
        for (name, value) in document.channels {
            wanted.add(Kind::Channel, name, value, Channel::check, &mut mistakes);
        }
        let placed = |mut value: Value| {
            if let (Some(broker), Some(fields)) = (&document.broker, value.as_object_mut()) {
                fields.entry("broker").or_insert_with(|| broker.clone().into());
            }
            value
        };
        for (name, value) in document.topics {
            let value = placed(value);
            wanted.add(Kind::Topic, name, value, Topic::check, &mut mistakes);
        }
        for (name, value) in document.queues {
            let value = placed(value);
            wanted.add(Kind::Queue, name, value, Queue::check, &mut mistakes);
        }
        for (name, value) in document.routes {
            wanted.add(Kind::Route, name, value, Route::check, &mut mistakes);
        }
        for (name, mut value) in document.subscriptions {
            let plugin = value.get("plugin").and_then(Value::as_str).unwrap_or_default().to_owned();
            if !value.contains_key("version")
                && let Some(known) = wanted.plugins.iter().find(|known| known.name == plugin)
            {
                value.insert("version".to_owned(), known.digest.to_string().into());
            }
            if !plugin.is_empty() {
                wanted.plugin_names.insert(plugin);
            }
            let check = |wanted: &Subscription| match wanted.check() {
                Err(refusal) if wanted.plugin.is_some() && wanted.version.is_none() => Err(Refusal {
                    detail: format!("{}, or the plugin's file under plugins", refusal.detail),
                    ..refusal
                }),
                checked => checked,
            };
            wanted.add(Kind::Subscription, name, value.into(), check, &mut mistakes);
        }
        if mistakes.is_empty() { Ok(wanted) } else { Err(mistakes) }
    }

    fn plugin(&mut self, name: &str, file: &Path) -> Result<(), String> {
        let wasm = error::read(file).map_err(|error| error.to_string())?;
        let digest = Digest::from_bytes(Sha256::digest(&wasm).into());
        self.plugins.push(WantedPlugin { name: name.to_owned(), digest, wasm });
        self.plugin_names.insert(name.to_owned());
        Ok(())
    }

    fn add<T: Serialize + DeserializeOwned>(
        &mut self,
        kind: Kind,
        name: String,
        value: Value,
        check: impl FnOnce(&T) -> Result<(), Refusal>,
        mistakes: &mut Vec<String>,
    ) {
        let definition = checked_name(&name).and_then(|()| {
            let parsed = T::deserialize(&value).map_err(|error| explained(kind, &error))?;
            check(&parsed).map_err(|refusal| refusal.detail)?;
            let full = serde_json::to_value(&parsed).map_err(|error| error.to_string())?;
            Ok::<_, String>(Definition { given: value, full })
        });
        match definition {
            Ok(definition) => {
                self.definitions.insert((kind, name), definition);
            }
            Err(why) => mistakes.push(format!("{}.{name}: {why}", kind.plural())),
        }
    }
}

fn checked_name(name: &str) -> Result<(), String> {
    Name::new(name).map(drop).map_err(|refusal| refusal.detail)
}

fn explained(kind: Kind, error: &serde_json::Error) -> String {
    let why = error.to_string();
    if why.starts_with("unknown field") {
        return format!("{why}; a name with dots is quoted in TOML: [{}.\"a.b\"]", kind.plural());
    }
    why
}

fn parse(path: &Path, text: &str) -> Result<Document, String> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("toml") => toml::from_str(text).map_err(|error| error.to_string()),
        // YAML holds less than all of JSON: no control character as it is.
        Some("json") => serde_json::from_str(text).map_err(|error| error.to_string()),
        Some("yaml" | "yml") => serde_saphyr::from_str(text).map_err(|error| error.to_string()),
        _ => Err("the name of a document ends in .toml, .yaml, .yml or .json".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TOML: &str = r##"
        [topics."orders.paid"]
        owners = ["shop"]
        [queues.settlement]
        [routes.paid]
        topic = "orders.paid"
        queue = "settlement"
        [plugins.settlement]
        file = "settlement.wasm"
        [subscriptions.settlement]
        queue = "settlement"
        plugin = "settlement"
        workers = 4
        config = { commission_percent = "15" }
    "##;

    const YAML: &str = r#"
        topics: {orders.paid: {owners: [shop]}}
        queues: {settlement: {}}
        routes:
          paid: {topic: orders.paid, queue: settlement}
        plugins: {settlement: {file: settlement.wasm}}
        subscriptions:
          settlement:
            queue: settlement
            plugin: settlement
            workers: 4
            config: {commission_percent: "15"}
    "#;

    fn read(name: &str, text: &str) -> Result<Wanted, String> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("settlement.wasm"), b"bytes").unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        Wanted::read(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn toml_and_yaml_say_the_same_with_every_default_filled_in() {
        let (toml, yaml) = (read("d.toml", TOML).unwrap(), read("d.yaml", YAML).unwrap());
        assert_eq!(toml.definitions, yaml.definitions);
        assert_eq!(toml.definitions.len(), 4);
        let full = |kind: Kind, name: &str| &toml.definitions[&(kind, name.to_owned())].full;
        let route = full(Kind::Route, "paid");
        assert_eq!(route["key_pattern"], "#");
        let subscription = full(Kind::Subscription, "settlement");
        assert_eq!(subscription["version"], toml.plugins[0].digest.to_string());
        assert_eq!(subscription["retry"]["max_attempts"].as_u64().map(|n| n > 0), Some(true));
        assert_eq!(subscription.get("paused"), None, "what is left out stays as it is");
    }

    #[test]
    fn topics_and_queues_that_name_no_broker_live_on_the_documents() {
        let text = r#"
            broker = "rabbit"
            brokers.rabbit = { kind = "amqp", url = "amqp://me:secret@host/", heartbeat_s = 5 }
            [topics.t]
            [queues.here]
            broker = "embedded"
            [queues.there]
        "#;
        let wanted = read("d.toml", text).unwrap();
        let broker = |kind, name: &str| wanted.definitions[&(kind, name.to_owned())].full["broker"].clone();
        assert_eq!(broker(Kind::Topic, "t"), "rabbit");
        assert_eq!(
            (broker(Kind::Queue, "here"), broker(Kind::Queue, "there")),
            ("embedded".into(), "rabbit".into())
        );
        let rabbit = &wanted.definitions[&(Kind::Broker, "rabbit".to_owned())].full;
        assert_eq!((&rabbit["heartbeat_s"], &rabbit["url"]), (&json!(5), &json!("amqp://me:secret@host/")));
        let shown = json!({"name": "rabbit", "kind": "amqp", "url": "amqp://me:***@host/", "heartbeat_s": 5,
            "description": "", "owners": [], "revision": 1, "created_at_ms": 1, "changed_at_ms": 1, "status": {}});
        assert_eq!(Kind::Broker.definition_in(&shown).as_object().unwrap().len(), 5);
    }

    #[test]
    fn json_may_hold_what_yaml_may_not() {
        let json = json!({"topics": {"t": {"description": "a\u{7f}b"}}}).to_string();
        let wanted = read("d.json", &json).unwrap();
        assert_eq!(wanted.definitions[&(Kind::Topic, "t".to_owned())].given["description"], "a\u{7f}b");
    }

    #[test]
    fn all_mistakes_at_once() {
        let text = r#"
            [topics.orders.paid]
            [queues.q]
            retention = { max_messages = 0 }
            [routes."no route"]
            [subscriptions.s]
            queue = "q"
            plugin = "unknown"
            [plugins.gone]
            file = "gone.wasm"
        "#;
        let mistakes = read("d.toml", text).unwrap_err();
        for expected in [
            "topics.orders: unknown field `paid`",
            "quoted in TOML",
            "queues.q: retention.max_messages is 0",
            "routes.no route: the name",
            "subscriptions.s: there is plugin and no version; give the digest of the version, or the plugin's file",
            "plugins.gone: ",
        ] {
            assert!(mistakes.contains(expected), "{expected:?} is not in:\n{mistakes}");
        }
        assert!(read("d.toml", "topic = 1").unwrap_err().contains("unknown field `topic`"));
        assert!(read("d.txt", "").unwrap_err().contains("ends in .toml"));
    }

    #[test]
    fn what_the_server_adds_is_no_part_of_the_definition() {
        let shown = json!({"name": "q", "broker": "embedded", "description": "", "owners": [], "revision": 7,
            "retention": {"max_messages": 1}, "counts": {"ready": 1}});
        let expect =
            json!({"broker": "embedded", "description": "", "owners": [], "retention": {"max_messages": 1}});
        assert_eq!(Kind::Queue.definition_in(&shown), expect);
        assert!(fields::<Subscription>().contains(&"max_in_flight"));
    }
}
