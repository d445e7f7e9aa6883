//! One state of the whole catalog, and how a definition is stored in a row.

use std::{collections::BTreeMap, sync::Arc};

use brolly_core::{BrokerDefinition, Channel, Name, Queue, Route, Subscription, Timestamp, Topic};
use brolly_store::{Store, keys};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{Definition, Error, Plugin, Samples, Token};

type Map<T> = Arc<BTreeMap<Name, Entry<T>>>;

/// All definitions at one revision. Each kind is shared with the snapshots before and after it that
/// did not change that kind.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Grows with every change.
    pub revision: u64,
    /// Brokers, but for the embedded one.
    pub brokers: Map<BrokerDefinition>,
    /// Topics.
    pub topics: Map<Topic>,
    /// Queues.
    pub queues: Map<Queue>,
    /// Routes.
    pub routes: Map<Route>,
    /// Plugins with their versions.
    pub plugins: Map<Plugin>,
    /// Subscriptions.
    pub subscriptions: Map<Subscription>,
    /// Tokens, hashed.
    pub tokens: Map<Token>,
    /// Ways to tell people something.
    pub channels: Map<Channel>,
    /// Samples that the versions of a plugin must pass, by the plugin's name.
    pub samples: Map<Samples>,
}

/// A definition with its history.
#[derive(Clone, Debug)]
pub struct Entry<T> {
    /// The catalog's revision at which it got its present value.
    pub revision: u64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub changed_at: Timestamp,
    /// The definition.
    pub value: Arc<T>,
}

/// The row of a definition: JSON, so that fields can be added and rows read by people.
#[derive(Serialize, Deserialize)]
struct Row<T> {
    revision: u64,
    created_at: Timestamp,
    changed_at: Timestamp,
    value: T,
}

impl<T: Serialize> Entry<T> {
    pub(crate) fn to_row(&self) -> Result<Vec<u8>, Error> {
        let row = Row {
            revision: self.revision,
            created_at: self.created_at,
            changed_at: self.changed_at,
            value: &*self.value,
        };
        serde_json::to_vec(&row).map_err(|source| Error::Row {
            kind: "definition",
            name: String::new(),
            source,
        })
    }
}

impl<T: DeserializeOwned> Entry<T> {
    fn from_row(row: &[u8]) -> Result<Self, serde_json::Error> {
        let row: Row<T> = serde_json::from_slice(row)?;
        Ok(Self {
            revision: row.revision,
            created_at: row.created_at,
            changed_at: row.changed_at,
            value: Arc::new(row.value),
        })
    }
}

impl Snapshot {
    pub(crate) fn read(store: &Store) -> Result<Self, Error> {
        let mut snapshot = Self::default();
        snapshot.read_kind::<BrokerDefinition>(store)?;
        snapshot.read_kind::<Topic>(store)?;
        snapshot.read_kind::<Queue>(store)?;
        snapshot.read_kind::<Route>(store)?;
        snapshot.read_kind::<Plugin>(store)?;
        snapshot.read_kind::<Subscription>(store)?;
        snapshot.read_kind::<Token>(store)?;
        snapshot.read_kind::<Channel>(store)?;
        snapshot.read_kind::<Samples>(store)?;
        Ok(snapshot)
    }

    fn read_kind<T: Definition>(&mut self, store: &Store) -> Result<(), Error> {
        let kind = T::KIND.word();
        let prefix = keys::catalog_prefix(kind);
        for row in store.scan(&prefix, None) {
            let (key, value) = row?;
            let text = String::from_utf8_lossy(key.get(prefix.len()..).unwrap_or_default()).into_owned();
            let name = Name::new(&text)?;
            let entry: Entry<T> =
                Entry::from_row(&value).map_err(|source| Error::Row { kind, name: text, source })?;
            self.revision = self.revision.max(entry.revision);
            T::map_mut(self).insert(name, entry);
        }
        Ok(())
    }
}
