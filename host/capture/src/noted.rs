//! State and outside of an attempt, with a note of everything that they answer.

use std::time::Duration;

use brolly_core::{
    Call, HttpError, HttpRequest, HttpResponse, HttpTerms, Outside, StateEntry, StateReader,
    StateUnavailable, Unreachable,
};
use bytes::Bytes;
use parking_lot::Mutex;

use crate::{Blob, CapturedAnswer, CapturedRequest, MAX_CAPTURE_BYTES, Read};

/// What an attempt is given in the place of its call's state and outside.
pub(crate) struct Noted<'a> {
    state: &'a dyn StateReader,
    outside: &'a dyn Outside,
    reads: Mutex<Reads>,
}

impl<'a> Noted<'a> {
    pub(crate) fn new(call: &Call<'a>) -> Self {
        Self { state: call.state, outside: call.outside, reads: Mutex::default() }
    }

    /// The call, with its reads noted.
    pub(crate) fn call<'b>(&'b self, call: &Call<'b>) -> Call<'b> {
        Call {
            message: call.message,
            subscription: call.subscription,
            attempt: call.attempt,
            last_attempt: call.last_attempt,
            idempotency_key: call.idempotency_key,
            state: self,
            outside: self,
        }
    }

    /// All reads, if they were not too many.
    pub(crate) fn complete(self) -> Option<Vec<Read>> {
        let Reads { reads, bytes } = self.reads.into_inner();
        (bytes <= MAX_CAPTURE_BYTES).then_some(reads)
    }

    fn note(&self, read: Read) {
        self.reads.lock().note(read);
    }
}

#[derive(Default)]
struct Reads {
    reads: Vec<Read>,
    bytes: usize,
}

impl Reads {
    /// Notes a read. Beyond the limit of a capture nothing is held any more: it is not going to be kept.
    fn note(&mut self, read: Read) {
        if self.bytes > MAX_CAPTURE_BYTES || self.is_again(&read) {
            return;
        }
        self.bytes += read.size();
        if self.bytes > MAX_CAPTURE_BYTES {
            self.reads = Vec::new();
        } else {
            self.reads.push(read);
        }
    }

    /// A clock that is asked again within its millisecond is counted: one who waits for it by asking
    /// would fill the capture.
    fn is_again(&mut self, read: &Read) -> bool {
        match (self.reads.last_mut(), read) {
            (Some(Read::Wall { ms, times }), Read::Wall { ms: now, .. })
            | (Some(Read::Monotonic { ms, times }), Read::Monotonic { ms: now, .. })
                if ms == now && *times < u32::MAX =>
            {
                *times += 1;
                true
            }
            _ => false,
        }
    }
}

impl StateReader for Noted<'_> {
    fn get(&self, key: &str) -> Result<Option<Bytes>, StateUnavailable> {
        let value = self.state.get(key)?;
        self.note(Read::Get { key: key.to_owned(), value: value.clone().map(Blob) });
        Ok(value)
    }

    fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<StateEntry>, StateUnavailable> {
        let entries = self.state.list(prefix, after, limit)?;
        let noted = entries.iter().map(|entry| (entry.key.clone(), Blob(entry.value.clone())));
        self.note(Read::List {
            prefix: prefix.to_owned(),
            after: after.map(str::to_owned),
            limit,
            entries: noted.collect(),
        });
        Ok(entries)
    }
}

impl Outside for Noted<'_> {
    fn wall_ms(&self) -> Result<u64, Unreachable> {
        let ms = self.outside.wall_ms()?;
        self.note(Read::Wall { ms, times: 1 });
        Ok(ms)
    }

    fn monotonic_ms(&self) -> Result<u64, Unreachable> {
        let ms = self.outside.monotonic_ms()?;
        self.note(Read::Monotonic { ms, times: 1 });
        Ok(ms)
    }

    fn wait(&self, wanted: Duration, at_most: Duration) -> Result<bool, Unreachable> {
        let passed = self.outside.wait(wanted, at_most)?;
        self.note(Read::Wait { passed });
        Ok(passed)
    }

    fn random(&self, count: usize) -> Result<Vec<u8>, Unreachable> {
        let bytes = self.outside.random(count)?;
        self.note(Read::Random { bytes: Blob(Bytes::copy_from_slice(&bytes)) });
        Ok(bytes)
    }

    fn http(&self, request: &HttpRequest, terms: HttpTerms) -> Result<HttpResponse, HttpError> {
        let answer = self.outside.http(request, terms);
        if let Some(noted) = CapturedAnswer::of(&answer) {
            self.note(Read::Http { request: CapturedRequest::from(request), answer: noted });
        }
        answer
    }
}
