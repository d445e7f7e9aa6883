//! `wasi:clocks`, in whole milliseconds: finer steps would let a guest measure what others do on the
//! same processor, and no handler needs them.

use wasmtime::component::Resource;

use crate::{
    attempt::Guest,
    bindings::standard::wasi::clocks::{monotonic_clock, wall_clock},
    fault::Stop,
    wasi::io::Pollable,
};

pub(crate) const NANOS_PER_MS: u64 = 1_000_000;

impl Guest {
    fn granted_clock(&self) -> Result<(), Stop> {
        if self.terms.grants.clock {
            return Ok(());
        }
        Err(self.not_granted("to read the clock", "grants.clock"))
    }

    fn nanos(&mut self) -> Result<u64, Stop> {
        self.granted_clock()?;
        Ok(self.outside().monotonic_ms()?.saturating_mul(NANOS_PER_MS))
    }
}

impl wall_clock::Host for Guest {
    fn now(&mut self) -> wasmtime::Result<wall_clock::Datetime> {
        self.granted_clock()?;
        let ms = self.outside().wall_ms().map_err(Stop::from)?;
        let nanoseconds = u32::try_from(ms % 1_000 * NANOS_PER_MS).unwrap_or(0);
        Ok(wall_clock::Datetime { seconds: ms / 1_000, nanoseconds })
    }

    fn resolution(&mut self) -> wasmtime::Result<wall_clock::Datetime> {
        Ok(wall_clock::Datetime { seconds: 0, nanoseconds: 1_000_000 })
    }
}

impl monotonic_clock::Host for Guest {
    fn now(&mut self) -> wasmtime::Result<u64> {
        Ok(self.nanos()?)
    }

    fn resolution(&mut self) -> wasmtime::Result<u64> {
        Ok(NANOS_PER_MS)
    }

    fn subscribe_instant(&mut self, when: u64) -> wasmtime::Result<Resource<Pollable>> {
        self.granted_clock()?;
        self.handles().push(Pollable::At(when))
    }

    fn subscribe_duration(&mut self, when: u64) -> wasmtime::Result<Resource<Pollable>> {
        let moment = self.nanos()?.saturating_add(when);
        self.handles().push(Pollable::At(moment))
    }
}
