//! What lies outside of handlers: the machine's clocks, its randomness, and servers on the network.
//!
//! The port [`Outside`] for a running host. The binary builds a [`System`] and hands it to dispatch; the
//! sandbox asks it on behalf of handlers that were granted it, from threads that may block. Which hosts
//! a handler may call is decided before; this crate sees to it that the name of such a host does not
//! lead somewhere else.
//!
//! INVARIANT: a connection goes to an address that was checked, never to a name. The one look-up of a
//! name gives the addresses that are checked and connected to, so no second answer can differ.

mod address;
mod client;

use std::{
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use brolly_core::{HttpError, HttpRequest, HttpResponse, HttpTerms, Outside, Unreachable, whole_ms};
use parking_lot::Mutex;
use reqwest::Client;
use tokio::runtime::Handle;

/// The outside of a running host.
pub struct System {
    runtime: Handle,
    started: Instant,
    /// For addresses of the public internet, and for any. Made when the first request is sent, because
    /// reading the roots of trust takes a moment and most hosts send none.
    public: Mutex<Option<Client>>,
    private: Mutex<Option<Client>>,
}

impl System {
    /// The outside, with connections on this runtime. Its methods must be called from other threads
    /// than those of the runtime.
    #[must_use]
    pub fn new(runtime: Handle) -> Self {
        Self { runtime, started: Instant::now(), public: Mutex::default(), private: Mutex::default() }
    }

    fn client(&self, private: bool) -> Result<Client, Unreachable> {
        let mut kept = if private { self.private.lock() } else { self.public.lock() };
        if let Some(client) = &*kept {
            return Ok(client.clone());
        }
        let client = client::build(private)
            .map_err(|error| Unreachable(format!("no HTTP client can be made on this machine: {error}")))?;
        Ok(kept.insert(client).clone())
    }
}

impl Outside for System {
    fn wall_ms(&self) -> Result<u64, Unreachable> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(whole_ms(since))
    }

    fn monotonic_ms(&self) -> Result<u64, Unreachable> {
        Ok(whole_ms(self.started.elapsed()).max(1))
    }

    fn wait(&self, wanted: Duration, at_most: Duration) -> Result<bool, Unreachable> {
        let end = Instant::now() + wanted.min(at_most);
        // Somebody may wake the thread for reasons of their own.
        while let Some(rest) = end.checked_duration_since(Instant::now()).filter(|rest| !rest.is_zero()) {
            thread::park_timeout(rest);
        }
        Ok(wanted <= at_most)
    }

    fn random(&self, count: usize) -> Result<Vec<u8>, Unreachable> {
        let mut bytes = vec![0; count];
        getrandom::fill(&mut bytes)
            .map_err(|error| Unreachable(format!("the system gives no random bytes: {error}")))?;
        Ok(bytes)
    }

    fn http(&self, request: &HttpRequest, terms: HttpTerms) -> Result<HttpResponse, HttpError> {
        client::check_literal(request.target.host(), terms.private)?;
        let client = self.client(terms.private).map_err(HttpError::Unreachable)?;
        self.runtime.block_on(client::exchange(&client, request, terms))
    }
}
