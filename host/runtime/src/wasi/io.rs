//! `wasi:io`: streams of bytes, and waiting for something. A stream of ours is always ready, because
//! what it leads to lies in memory; what can be waited for is a moment, or the answer to a request.

use std::time::Duration;

use brolly_core::{Fault, LogLevel};
use bytes::Bytes;
use wasmtime::component::Resource;

use crate::{
    attempt::Guest,
    bindings::standard::wasi::io::{error, poll, streams, streams::StreamError},
    fault::Stop,
    wasi::{
        clocks::NANOS_PER_MS,
        http::{Exchange, Outgoing},
    },
};

/// Bytes that a guest is told it may write at once.
const WRITE_BYTES: u64 = 65_536;

/// What went wrong with a stream, in words.
pub struct IoError(String);

/// What can be waited for.
#[derive(Clone)]
pub enum Pollable {
    /// Something that is there.
    Ready,
    /// A moment of the monotonic clock, in nanoseconds.
    At(u64),
    /// The answer to a request.
    Answer(Exchange),
}

/// The rest of something that lies in memory.
pub struct InputStream(pub(crate) Bytes);

/// Where bytes go.
#[derive(Clone)]
pub enum OutputStream {
    /// Into the delivery's log.
    Log(LogLevel),
    /// Into the body of a request.
    Body(Outgoing),
}

impl error::Host for Guest {}

impl error::HostError for Guest {
    fn to_debug_string(&mut self, this: Resource<IoError>) -> wasmtime::Result<String> {
        Ok(self.handles().get(&this)?.0.clone())
    }

    fn drop(&mut self, this: Resource<IoError>) -> wasmtime::Result<()> {
        self.handles().delete(this).map(drop)
    }
}

impl poll::HostPollable for Guest {
    fn ready(&mut self, this: Resource<Pollable>) -> wasmtime::Result<bool> {
        let pollable = self.handles().get(&this)?.clone();
        Ok(self.is_ready(&pollable, &mut None)?)
    }

    fn block(&mut self, this: Resource<Pollable>) -> wasmtime::Result<()> {
        let pollable = self.handles().get(&this)?.clone();
        Ok(self.first_ready(&[pollable]).map(drop)?)
    }

    fn drop(&mut self, this: Resource<Pollable>) -> wasmtime::Result<()> {
        self.handles().delete(this).map(drop)
    }
}

impl poll::Host for Guest {
    fn poll(&mut self, these: Vec<Resource<Pollable>>) -> wasmtime::Result<Vec<u32>> {
        if these.is_empty() {
            return Err(Stop::Fault(Fault::BadCall("poll: there is nothing to wait for".to_owned())).into());
        }
        let handles = self.handles();
        let pollables =
            these.iter().map(|this| handles.get(this).cloned()).collect::<wasmtime::Result<Vec<_>>>()?;
        Ok(self.first_ready(&pollables)?)
    }
}

impl Guest {
    /// Whether it is ready. The clock is looked at once, however many wait for it.
    fn is_ready(&mut self, pollable: &Pollable, now: &mut Option<u64>) -> Result<bool, Stop> {
        Ok(match pollable {
            Pollable::Ready => true,
            Pollable::Answer(exchange) => exchange.is_answered(),
            Pollable::At(moment) => {
                let now = match *now {
                    Some(now) => now,
                    None => *now.insert(self.outside().monotonic_ms()?.saturating_mul(NANOS_PER_MS)),
                };
                *moment <= now
            }
        })
    }

    /// Waits until at least one is ready; answers with the places of those that are.
    fn first_ready(&mut self, pollables: &[Pollable]) -> Result<Vec<u32>, Stop> {
        loop {
            let mut now = None;
            let mut ready = Vec::new();
            for (place, pollable) in (0..).zip(pollables) {
                if self.is_ready(pollable, &mut now)? {
                    ready.push(place);
                }
            }
            if !ready.is_empty() {
                return Ok(ready);
            }
            let moments = pollables.iter().filter_map(|pollable| match pollable {
                Pollable::At(moment) => Some(*moment),
                Pollable::Ready | Pollable::Answer(_) => None,
            });
            let (Some(first), Some(now)) = (moments.min(), now) else {
                return Err(Stop::Fault(Fault::BadCall(
                    "it waits for the answer to a request whose body it has not finished, so none can come"
                        .to_owned(),
                )));
            };
            // The clock moves in whole steps, so a shorter wait would only ask it in vain.
            self.wait(Duration::from_millis(first.saturating_sub(now).div_ceil(NANOS_PER_MS)))?;
        }
    }

    /// Waits, within the time that the attempt has left.
    fn wait(&mut self, wanted: Duration) -> Result<(), Stop> {
        let limit_ms = self.terms.limits.time_ms;
        let left = self.time_left();
        let has_passed = self.outside().wait(wanted, left)?;
        if !has_passed {
            return Err(Fault::TimeOut { limit_ms }.into());
        }
        self.check_time()
    }

    fn write(
        &mut self,
        this: &Resource<OutputStream>,
        bytes: &[u8],
    ) -> wasmtime::Result<Result<(), StreamError>> {
        match self.handles().get(this)?.clone() {
            OutputStream::Log(level) => {
                self.attempt.write_std(level, bytes, self.terms.limits.log_bytes);
                Ok(Ok(()))
            }
            OutputStream::Body(body) => {
                self.count_request_bytes(bytes.len() as u64)?;
                Ok(body.write(bytes).map_err(|()| StreamError::Closed))
            }
        }
    }

    fn take(
        &mut self,
        this: &Resource<InputStream>,
        len: u64,
    ) -> wasmtime::Result<Result<Bytes, StreamError>> {
        let InputStream(rest) = self.handles().get_mut(this)?;
        if rest.is_empty() {
            return Ok(Err(StreamError::Closed));
        }
        let len = usize::try_from(len).unwrap_or(usize::MAX).min(rest.len());
        Ok(Ok(rest.split_to(len)))
    }

    fn zeroes(len: u64) -> Result<Vec<u8>, Stop> {
        match usize::try_from(len) {
            Ok(count) if len <= WRITE_BYTES => Ok(vec![0; count]),
            _ => Err(Stop::Fault(Fault::BadCall(format!(
                "{len} zeroes are to be written at once; check-write allows {WRITE_BYTES}"
            )))),
        }
    }
}

impl streams::Host for Guest {}

impl streams::HostInputStream for Guest {
    fn read(
        &mut self,
        this: Resource<InputStream>,
        len: u64,
    ) -> wasmtime::Result<Result<Vec<u8>, StreamError>> {
        Ok(self.take(&this, len)?.map(Vec::from))
    }

    fn blocking_read(
        &mut self,
        this: Resource<InputStream>,
        len: u64,
    ) -> wasmtime::Result<Result<Vec<u8>, StreamError>> {
        self.read(this, len)
    }

    fn skip(&mut self, this: Resource<InputStream>, len: u64) -> wasmtime::Result<Result<u64, StreamError>> {
        Ok(self.take(&this, len)?.map(|bytes| bytes.len() as u64))
    }

    fn blocking_skip(
        &mut self,
        this: Resource<InputStream>,
        len: u64,
    ) -> wasmtime::Result<Result<u64, StreamError>> {
        self.skip(this, len)
    }

    fn subscribe(&mut self, _: Resource<InputStream>) -> wasmtime::Result<Resource<Pollable>> {
        self.handles().push(Pollable::Ready)
    }

    fn drop(&mut self, this: Resource<InputStream>) -> wasmtime::Result<()> {
        self.handles().delete(this).map(drop)
    }
}

impl streams::HostOutputStream for Guest {
    fn check_write(&mut self, _: Resource<OutputStream>) -> wasmtime::Result<Result<u64, StreamError>> {
        Ok(Ok(WRITE_BYTES))
    }

    fn write(
        &mut self,
        this: Resource<OutputStream>,
        contents: Vec<u8>,
    ) -> wasmtime::Result<Result<(), StreamError>> {
        Guest::write(self, &this, &contents)
    }

    fn blocking_write_and_flush(
        &mut self,
        this: Resource<OutputStream>,
        contents: Vec<u8>,
    ) -> wasmtime::Result<Result<(), StreamError>> {
        Guest::write(self, &this, &contents)
    }

    fn flush(&mut self, _: Resource<OutputStream>) -> wasmtime::Result<Result<(), StreamError>> {
        Ok(Ok(()))
    }

    fn blocking_flush(&mut self, _: Resource<OutputStream>) -> wasmtime::Result<Result<(), StreamError>> {
        Ok(Ok(()))
    }

    fn subscribe(&mut self, _: Resource<OutputStream>) -> wasmtime::Result<Resource<Pollable>> {
        self.handles().push(Pollable::Ready)
    }

    fn write_zeroes(
        &mut self,
        this: Resource<OutputStream>,
        len: u64,
    ) -> wasmtime::Result<Result<(), StreamError>> {
        let zeroes = Self::zeroes(len)?;
        Guest::write(self, &this, &zeroes)
    }

    fn blocking_write_zeroes_and_flush(
        &mut self,
        this: Resource<OutputStream>,
        len: u64,
    ) -> wasmtime::Result<Result<(), StreamError>> {
        self.write_zeroes(this, len)
    }

    fn splice(
        &mut self,
        this: Resource<OutputStream>,
        from: Resource<InputStream>,
        len: u64,
    ) -> wasmtime::Result<Result<u64, StreamError>> {
        let bytes = match self.take(&from, len.min(WRITE_BYTES))? {
            Ok(bytes) => bytes,
            Err(closed) => return Ok(Err(closed)),
        };
        Ok(Guest::write(self, &this, &bytes)?.map(|()| bytes.len() as u64))
    }

    fn blocking_splice(
        &mut self,
        this: Resource<OutputStream>,
        from: Resource<InputStream>,
        len: u64,
    ) -> wasmtime::Result<Result<u64, StreamError>> {
        self.splice(this, from, len)
    }

    fn drop(&mut self, this: Resource<OutputStream>) -> wasmtime::Result<()> {
        self.handles().delete(this).map(drop)
    }
}
