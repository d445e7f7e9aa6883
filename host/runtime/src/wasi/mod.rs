//! The standard interfaces (WASI 0.2) that a guest may import: what its subscription grants of clock,
//! randomness and HTTP, and what compilers for WASI make every guest import.
//!
//! Every call is answered at once, on the attempt's own thread, through the port
//! [`brolly_core::Outside`]: no task and no second thread belongs to an instance, so an attempt that is
//! given the same answers does the same again. A guest that imports none of this pays nothing for it.
//! See docs/adr/0015-grants.md.

mod cli;
mod clocks;
mod denied;
mod fields;
pub(crate) mod http;
pub(crate) mod io;
pub(crate) mod messaging;
mod random;
mod request;

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use brolly_core::{Fault, HttpError, HttpRequest, HttpResponse, HttpTerms, Outside, Unreachable};
use wasmtime::component::{HasSelf, Linker, Resource, ResourceTable};

use crate::{attempt::Guest, bindings::standard::Standard, fault::Stop};

pub(crate) use denied::completed;

/// Handles that one guest may hold at the same time.
pub(crate) const MAX_HANDLES: usize = 512;

/// Whether a plugin may import an interface of WASI.
pub(crate) fn is_offered(name: &str) -> bool {
    denied::is_offered(name) || messaging::is_offered(name)
}

/// Adds the interfaces.
pub(crate) fn add_to(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    Standard::add_to_linker::<_, HasSelf<Guest>>(linker, |guest| guest)?;
    messaging::add_to(linker)?;
    denied::add_servers_side(linker)
}

/// What the guest holds a handle of.
#[derive(Default)]
pub(crate) struct Handles {
    table: ResourceTable,
    open: usize,
    /// Messages among them, and the bytes that are held for them.
    messages: usize,
    message_bytes: u64,
}

/// How much a guest holds.
#[derive(Clone, Copy, Default)]
pub(crate) struct Held {
    pub(crate) handles: usize,
    /// Those of them that are messages.
    pub(crate) messages: usize,
}

impl Handles {
    pub(crate) fn held(&self) -> Held {
        Held { handles: self.open, messages: self.messages }
    }

    fn push<T: Send + 'static>(&mut self, entry: T) -> wasmtime::Result<Resource<T>> {
        if self.open >= MAX_HANDLES {
            return Err(Stop::Fault(Fault::Limit {
                what: format!("{} handles of WASI interfaces at the same time", self.open + 1),
                limit: MAX_HANDLES as u64,
                setting: "a fixed limit",
            })
            .into());
        }
        let handle = self.table.push(entry)?;
        self.open += 1;
        Ok(handle)
    }

    fn get<T: 'static>(&self, handle: &Resource<T>) -> wasmtime::Result<&T> {
        Ok(self.table.get(handle)?)
    }

    fn get_mut<T: 'static>(&mut self, handle: &Resource<T>) -> wasmtime::Result<&mut T> {
        Ok(self.table.get_mut(handle)?)
    }

    fn delete<T: 'static>(&mut self, handle: Resource<T>) -> wasmtime::Result<T> {
        let entry = self.table.delete(handle)?;
        self.open = self.open.saturating_sub(1);
        Ok(entry)
    }
}

impl Guest {
    fn handles(&mut self) -> &mut Handles {
        self.handles.get_or_insert_default()
    }

    /// The outside. While an instance is only tried out there is none, and what it is told in its place
    /// must not be used for a delivery.
    fn outside(&mut self) -> &dyn Outside {
        match self.lent.outside() {
            Some(outside) => outside,
            None => &*self.attempt.before.get_or_insert_default(),
        }
    }

    /// What a call without its grant comes to.
    fn not_granted(&self, what: &str, grant: &str) -> Stop {
        let subscription = &self.terms.subscription;
        Stop::Fault(Fault::NotGranted(format!("{what} ({grant} of the subscription {subscription})")))
    }
}

impl From<Unreachable> for Stop {
    fn from(error: Unreachable) -> Self {
        Stop::Unavailable(error.to_string())
    }
}

/// What an instance meets that is made only to see whether it can be made: a time that goes on while it
/// waits, which takes none of ours.
#[derive(Default)]
pub(crate) struct Before {
    waited_ms: AtomicU64,
}

impl Outside for Before {
    fn wall_ms(&self) -> Result<u64, Unreachable> {
        self.monotonic_ms()
    }

    fn monotonic_ms(&self) -> Result<u64, Unreachable> {
        Ok(self.waited_ms.load(Ordering::Relaxed).saturating_add(1))
    }

    fn wait(&self, wanted: Duration, at_most: Duration) -> Result<bool, Unreachable> {
        let wanted = u64::try_from(wanted.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        let waited = self.waited_ms.load(Ordering::Relaxed).saturating_add(wanted);
        self.waited_ms.store(waited, Ordering::Relaxed);
        // What it has waited so far is not in what is left.
        Ok(Duration::from_millis(waited) <= at_most)
    }

    fn random(&self, count: usize) -> Result<Vec<u8>, Unreachable> {
        Ok(vec![0; count])
    }

    fn http(&self, _: &HttpRequest, _: HttpTerms) -> Result<HttpResponse, HttpError> {
        Err(HttpError::NotGranted("requests while an instance is made, before it has a delivery".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_are_limited_and_given_back() {
        let mut handles = Handles::default();
        let mut all: Vec<Resource<u8>> = (0..MAX_HANDLES).map(|_| handles.push(7_u8).unwrap()).collect();
        let over = handles.push(7_u8).unwrap_err().downcast::<Stop>().unwrap();
        assert!(matches!(over, Stop::Fault(Fault::Limit { limit: 512, .. })), "{over:?}");
        handles.delete(all.pop().unwrap()).unwrap();
        assert!(handles.push(7_u8).is_ok());
    }
}
