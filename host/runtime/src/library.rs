//! Loaded plugins: each version is compiled once and shared by all its subscriptions. Used by
//! `runtime`; knows bytes and digests, no subscription.

use std::{
    borrow::Cow,
    collections::{HashMap, VecDeque},
    sync::{Arc, Weak},
    time::Instant,
};

use brolly_core::{Digest, PluginError, whole_ms};
use parking_lot::Mutex;
use wasmtime::{
    Engine,
    component::{Component, Linker},
};

use crate::{Error, admit, artefact::Artefacts, attempt::Guest, imports, wasi, world::Pre};

/// Versions kept loaded though no subscription uses them, so that an upload followed by a
/// subscription loads once.
const RECENT: usize = 4;
/// Slots of versions that are not loaded any more are cleared once there are so many.
const MAX_SLOTS: usize = 64;

/// A version that is ready to be instantiated.
pub(crate) struct Loaded {
    pub(crate) pre: Pre,
    /// The interfaces it imports, sorted.
    pub(crate) imports: Vec<String>,
}

/// A version's place, locked while it is loaded, so that nobody does the same work beside.
type Slot = Arc<Mutex<Weak<Loaded>>>;

/// All loaded versions.
pub(crate) struct Library {
    linker: Linker<Guest>,
    artefacts: Artefacts,
    slots: Mutex<HashMap<Digest, Slot>>,
    recent: Mutex<VecDeque<Arc<Loaded>>>,
}

impl Library {
    pub(crate) fn new(engine: &Engine, artefacts: Artefacts) -> Result<Self, Error> {
        let mut linker = Linker::new(engine);
        let added = imports::add_to(&mut linker).and_then(|()| wasi::add_to(&mut linker));
        added.map_err(|error| Error::Engine { detail: format!("{error:#}") })?;
        Ok(Self { linker, artefacts, slots: Mutex::default(), recent: Mutex::default() })
    }

    /// The version with this digest, and the milliseconds that compiling it took. `bytes` is asked
    /// for its bytes only if no compiled code is at hand.
    pub(crate) fn load<'a>(
        &self,
        digest: &Digest,
        bytes: impl FnOnce() -> Result<Cow<'a, [u8]>, PluginError>,
    ) -> Result<(Arc<Loaded>, u64), PluginError> {
        let slot = self.slot(digest);
        let mut place = slot.lock();
        if let Some(loaded) = place.upgrade() {
            return Ok((loaded, 0));
        }
        let engine = self.linker.engine();
        let (loaded, compile_ms) = match self.artefacts.read(engine, digest) {
            Some(component) => (self.link(&component)?, 0),
            None => {
                let bytes = bytes()?;
                let started = Instant::now();
                let component = admit::compile(engine, &admit::component(&bytes)?)?;
                let elapsed = whole_ms(started.elapsed());
                let loaded = self.link(&component)?;
                if let Err(error) = self.artefacts.write(digest, &component) {
                    tracing::warn!(%digest, %error, "a compiled plugin could not be kept");
                }
                (loaded, elapsed.max(1))
            }
        };
        *place = Arc::downgrade(&loaded);
        let mut recent = self.recent.lock();
        recent.push_back(Arc::clone(&loaded));
        if recent.len() > RECENT {
            recent.pop_front();
        }
        Ok((loaded, compile_ms))
    }

    fn link(&self, component: &Component) -> Result<Arc<Loaded>, PluginError> {
        let (pre, imports) = admit::link(&self.linker, component)?;
        Ok(Arc::new(Loaded { pre, imports }))
    }

    fn slot(&self, digest: &Digest) -> Slot {
        let mut slots = self.slots.lock();
        if slots.len() >= MAX_SLOTS && !slots.contains_key(digest) {
            // INVARIANT: a slot that somebody loads into is held outside of the map and stays.
            slots.retain(|_, slot| Arc::strong_count(slot) > 1 || slot.lock().strong_count() > 0);
        }
        Arc::clone(slots.entry(*digest).or_default())
    }
}
