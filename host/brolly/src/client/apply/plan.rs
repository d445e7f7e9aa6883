//! What must change on a server for it to be as a document wants it: compared, put into the order
//! in which it can be done, and shown. Pure: the command reads and writes.

use std::collections::BTreeMap;

use brolly_core::{BrokerDefinition, Channel};
use serde::Deserialize;
use serde_json::Value;
use similar::{ChangeTag, TextDiff};

use super::document::{Definition, Kind, Wanted};
use crate::client::output::{shown, text};

/// What the server has.
#[derive(Clone, Debug, Default)]
pub struct Present {
    /// Definitions as the server shows them.
    pub definitions: BTreeMap<(Kind, String), Value>,
    /// The versions of each plugin.
    pub plugins: BTreeMap<String, Vec<String>>,
}

/// One thing to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Upload a plugin version.
    Upload {
        /// The plugin.
        plugin: String,
        /// The version.
        digest: String,
    },
    /// Create or replace a definition.
    Put {
        /// Its kind.
        kind: Kind,
        /// Its name.
        name: String,
        /// What it is; none if it is new.
        before: Option<Before>,
        /// What it is to be.
        after: Definition,
    },
    /// Delete a definition.
    Delete {
        /// Its kind.
        kind: Kind,
        /// Its name.
        name: String,
        /// What it is.
        before: Before,
    },
    /// Delete a plugin version.
    DeleteVersion {
        /// The plugin.
        plugin: String,
        /// The version.
        digest: String,
    },
}

/// A definition as the server has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Before {
    /// The definition.
    pub definition: Value,
    /// Its revision.
    pub revision: u64,
}

impl Before {
    fn new(kind: Kind, shown: &Value) -> Self {
        let revision = shown.get("revision").and_then(Value::as_u64).unwrap_or(0);
        Self { definition: kind.definition_in(shown), revision }
    }
}

/// The steps from what is there to what is wanted; `prune` also deletes what is not wanted.
///
/// What nothing refers to is deleted first, so that a queue is free for its next subscription; what
/// others refer to is deleted last.
#[must_use]
pub fn steps(wanted: &Wanted, present: &Present, prune: bool) -> Vec<Step> {
    let mut steps = Vec::new();
    for plugin in &wanted.plugins {
        let digest = plugin.digest.to_string();
        if !present.plugins.get(&plugin.name).is_some_and(|versions| versions.contains(&digest)) {
            steps.push(Step::Upload { plugin: plugin.name.clone(), digest });
        }
    }
    let delete = |kinds: &[Kind]| {
        let unwanted = |(key, shown): (&(Kind, String), &Value)| {
            let (kind, name) = key;
            let gone = prune && kinds.contains(kind) && !wanted.definitions.contains_key(key);
            gone.then(|| Step::Delete { kind: *kind, name: name.clone(), before: Before::new(*kind, shown) })
        };
        present.definitions.iter().filter_map(unwanted).collect::<Vec<_>>()
    };
    steps.extend(delete(&[Kind::Route, Kind::Subscription]));
    for ((kind, name), after) in &wanted.definitions {
        let before = present.definitions.get(&(*kind, name.clone())).map(|shown| Before::new(*kind, shown));
        if before.as_ref().is_none_or(|before| !is_same(*kind, &before.definition, &after.full)) {
            steps.push(Step::Put { kind: *kind, name: name.clone(), before, after: after.clone() });
        }
    }
    steps.extend(delete(&[Kind::Topic, Kind::Queue]));
    steps.extend(delete(&[Kind::Broker, Kind::Channel]));
    for (plugin, versions) in &present.plugins {
        if prune && !wanted.plugin_names.contains(plugin) {
            let delete =
                |digest: &String| Step::DeleteVersion { plugin: plugin.clone(), digest: digest.clone() };
            steps.extend(versions.iter().map(delete));
        }
    }
    steps
}

/// Whether putting `after` would change nothing.
fn is_same(kind: Kind, before: &Value, after: &Value) -> bool {
    comparable(kind, before, after) == *after
}

/// What is there, without what the document leaves as it is: whether a subscription is paused.
fn comparable(kind: Kind, before: &Value, after: &Value) -> Value {
    let mut before = before.clone();
    if kind == Kind::Subscription
        && after.get("paused").is_none()
        && let Some(fields) = before.as_object_mut()
    {
        fields.remove("paused");
    }
    before
}

/// A definition as it may be shown: without passwords.
fn visible(kind: Kind, definition: &Value) -> Value {
    let hidden = match kind {
        Kind::Broker => {
            BrokerDefinition::deserialize(definition).and_then(|broker| serde_json::to_value(broker.hidden()))
        }
        Kind::Channel => {
            Channel::deserialize(definition).and_then(|channel| serde_json::to_value(channel.hidden()))
        }
        Kind::Topic | Kind::Queue | Kind::Route | Kind::Subscription => return definition.clone(),
    };
    hidden.unwrap_or_default()
}

impl Step {
    /// The step in a word, for programs.
    #[must_use]
    pub fn action(&self) -> &'static str {
        match self {
            Step::Upload { .. } => "upload",
            Step::Put { before: None, .. } => "create",
            Step::Put { before: Some(_), .. } => "replace",
            Step::Delete { .. } | Step::DeleteVersion { .. } => "delete",
        }
    }

    /// What the step is about, such as `queue settlement`.
    #[must_use]
    pub fn subject(&self) -> String {
        match self {
            Step::Upload { plugin, digest } | Step::DeleteVersion { plugin, digest } => {
                format!("plugin {plugin} {digest}")
            }
            Step::Put { kind, name, .. } | Step::Delete { kind, name, .. } => format!("{kind} {name}"),
        }
    }

    /// The step for people: a line with what is done, and a line for each field that changes.
    #[must_use]
    pub fn shown(&self) -> String {
        let (before, after) = match self {
            Step::Upload { .. } | Step::DeleteVersion { .. } => (String::new(), String::new()),
            // Of something new, what the document says is enough.
            Step::Put { kind, before: None, after, .. } => {
                (String::new(), lines(&visible(*kind, &after.given)))
            }
            Step::Put { kind, before: Some(before), after, .. } => (
                lines(&comparable(*kind, &before.definition, &after.full)),
                lines(&visible(*kind, &after.full)),
            ),
            Step::Delete { before, .. } => (lines(&before.definition), String::new()),
        };
        let mut out = format!("{} {}\n", self.action(), self.subject());
        for change in TextDiff::from_lines(&before, &after).iter_all_changes() {
            let sign = match change.tag() {
                ChangeTag::Delete => '-',
                ChangeTag::Insert => '+',
                ChangeTag::Equal => continue,
            };
            out.push_str(&format!("  {sign} {}\n", shown(change.value().trim_end_matches('\n'))));
        }
        out
    }
}

/// A line for each field, such as `retry.max_attempts = 5`, sorted, so that two definitions compare
/// field by field.
fn lines(definition: &Value) -> String {
    let mut found = Vec::new();
    fields(definition, "", &mut found);
    found.sort();
    found.concat()
}

fn fields(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(inner) => {
            for (name, value) in inner {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                fields(value, &path, found);
            }
        }
        Value::Null => {}
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            found.push(format!("{path} = {value}\n"));
        }
    }
}

/// Names from a listing of plugins.
#[must_use]
pub fn versions(plugin: &Value) -> Vec<String> {
    let versions = plugin.get("versions").and_then(Value::as_array);
    versions.into_iter().flatten().map(|version| text(version, "digest").to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use brolly_core::Digest;
    use serde_json::json;

    use super::{super::document::WantedPlugin, *};

    fn key(kind: Kind, name: &str) -> (Kind, String) {
        (kind, name.to_owned())
    }

    fn wanted(definitions: Vec<((Kind, String), Value)>) -> Wanted {
        let full = definitions
            .into_iter()
            .map(|(key, value)| (key, Definition { given: value.clone(), full: value }));
        Wanted { definitions: full.collect(), ..Wanted::default() }
    }

    fn route(queue: &str) -> Value {
        json!({"topic": "t", "queue": queue, "key_pattern": "#", "description": ""})
    }

    fn present(definitions: Vec<((Kind, String), Value)>) -> Present {
        let shown = definitions.into_iter().map(|(key, mut value)| {
            value["revision"] = 7.into();
            value["name"] = key.1.clone().into();
            (key, value)
        });
        Present { definitions: shown.collect(), plugins: BTreeMap::new() }
    }

    fn check(wanted: &Wanted, present: &Present, prune: bool, expect: &[&str]) {
        let steps = steps(wanted, present, prune);
        let shown: Vec<String> =
            steps.iter().map(|step| format!("{} {}", step.action(), step.subject())).collect();
        assert_eq!(shown, expect);
    }

    #[test]
    fn what_is_as_wanted_is_left_alone() {
        let definitions = vec![(key(Kind::Route, "r"), route("q"))];
        check(&wanted(definitions.clone()), &present(definitions), true, &[]);
    }

    #[test]
    fn references_are_made_before_and_deleted_after_what_uses_them() {
        let old = vec![
            (key(Kind::Topic, "old"), json!({})),
            (key(Kind::Queue, "old"), json!({})),
            (key(Kind::Route, "old"), route("old")),
            (key(Kind::Subscription, "old"), json!({})),
        ];
        let new = vec![
            (key(Kind::Subscription, "new"), json!({"queue": "new"})),
            (key(Kind::Route, "new"), route("new")),
            (key(Kind::Queue, "new"), json!({})),
            (key(Kind::Topic, "new"), json!({})),
        ];
        let digest = Digest::from_bytes([1; 32]);
        let wanted = Wanted {
            plugins: vec![WantedPlugin { name: "p".into(), digest, wasm: Vec::new() }],
            plugin_names: ["p".to_owned()].into(),
            ..wanted(new)
        };
        let mut present = present(old);
        present.plugins.insert("unused".into(), vec!["sha256:1".into()]);
        let upload = format!("upload plugin p {digest}");
        let create = ["create topic new", "create queue new", "create route new", "create subscription new"];
        let mut expect = vec![upload.as_str()];
        expect.extend(create);
        check(&wanted, &present, false, &expect);

        let mut expect = vec![upload.as_str(), "delete route old", "delete subscription old"];
        expect.extend(create);
        expect.extend(["delete topic old", "delete queue old", "delete plugin unused sha256:1"]);
        check(&wanted, &present, true, &expect);

        present.plugins.insert("p".into(), vec![digest.to_string()]);
        check(&wanted, &present, false, &create);
    }

    #[test]
    fn a_pause_stays_unless_the_document_says_otherwise() {
        let running = json!({"queue": "q", "workers": 1});
        let paused = json!({"queue": "q", "workers": 1, "paused": true});
        let present = present(vec![(key(Kind::Subscription, "s"), paused)]);
        let wanted = |value: Value| wanted(vec![(key(Kind::Subscription, "s"), value)]);
        check(&wanted(running), &present, false, &[]);
        let resumed = wanted(json!({"queue": "q", "workers": 1, "paused": false}));
        check(&resumed, &present, false, &["replace subscription s"]);
    }

    #[test]
    fn a_diff_has_the_fields_that_change_and_no_others() {
        let before = Before {
            definition: json!({"workers": 2, "retry": {"max_attempts": 5, "delay": 1}, "paused": true}),
            revision: 7,
        };
        let full = json!({"retry": {"max_attempts": 9, "delay": 1}, "workers": 2, "config": {"a": "\u{1b}"}});
        let after = Definition { given: json!({"config": {}, "workers": 2}), full };
        let step = Step::Put {
            kind: Kind::Subscription,
            name: "s".into(),
            before: Some(before),
            after: after.clone(),
        };
        let expect = "replace subscription s\n  + config.a = \"\\u001b\"\n  - retry.max_attempts = 5\n  + retry.max_attempts = 9\n";
        assert_eq!(step.shown(), expect);
        let new = Step::Put { kind: Kind::Subscription, name: "s".into(), before: None, after };
        assert_eq!(new.shown(), "create subscription s\n  + workers = 2\n");
    }
}
