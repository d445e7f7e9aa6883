//! The sources of settings, merged: the file, the environment and the flags, each going over the one
//! before, read key by key so that one mistake does not hide the next. Used by the configuration alone.

use std::{collections::BTreeSet, fmt, ops::RangeInclusive};

use figment::{
    Figment, Metadata, Profile, Provider,
    providers::{Format, Toml},
    value::{Dict, Map, Value},
};
use serde::de::DeserializeOwned;

use super::{Flags, Mistakes};

/// What begins every environment variable that is a setting.
const PREFIX: &str = "BROLLY_";

/// The merged sources, read key by key so that one mistake does not hide the next.
pub(super) struct Settings {
    figment: Figment,
    pub(super) known: BTreeSet<&'static str>,
    mistakes: Vec<String>,
}

impl Settings {
    pub(super) fn open(
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
    pub(super) fn value<T: DeserializeOwned>(&mut self, key: &'static str, default: T) -> T {
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
    pub(super) fn range<T>(&mut self, key: &'static str, default: T, allowed: RangeInclusive<T>) -> T
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
    pub(super) fn parsed<T>(
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

    pub(super) fn mistake(&mut self, key: &str, what: String) {
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
    pub(super) fn finish(mut self) -> Result<(), Mistakes> {
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
