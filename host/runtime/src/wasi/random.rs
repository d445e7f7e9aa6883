//! `wasi:random`. Every interface gives bytes of the system's own source: there is no use for worse
//! ones. The seed that compilers ask for when a guest begins to use a hash map is there without a
//! grant, and then always the same.

use brolly_core::Fault;

use crate::{
    attempt::Guest,
    bindings::standard::wasi::random::{insecure, insecure_seed, random},
    fault::Stop,
};

/// Bytes that one call may ask for.
pub(crate) const RANDOM_BYTES: u64 = 65_536;

/// The seed of guests that are not granted randomness. Any numbers would do.
const FIXED_SEED: (u64, u64) = (0x6272_6f6c_6c79_2d31, 0x6272_6f6c_6c79_2d32);

impl Guest {
    fn random(&mut self, len: u64) -> Result<Vec<u8>, Stop> {
        if !self.terms.grants.random {
            return Err(self.not_granted("to draw random numbers", "grants.random"));
        }
        match usize::try_from(len) {
            Ok(count) if len <= RANDOM_BYTES => Ok(self.outside().random(count)?),
            _ => Err(Stop::Fault(Fault::Limit {
                what: format!("{len} random bytes in one call"),
                limit: RANDOM_BYTES,
                setting: "a fixed limit",
            })),
        }
    }

    fn random_u64(&mut self) -> Result<u64, Stop> {
        let bytes = self.random(8)?;
        Ok(bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes)))
    }
}

impl random::Host for Guest {
    fn get_random_bytes(&mut self, len: u64) -> wasmtime::Result<Vec<u8>> {
        Ok(self.random(len)?)
    }

    fn get_random_u64(&mut self) -> wasmtime::Result<u64> {
        Ok(self.random_u64()?)
    }
}

impl insecure::Host for Guest {
    fn get_insecure_random_bytes(&mut self, len: u64) -> wasmtime::Result<Vec<u8>> {
        Ok(self.random(len)?)
    }

    fn get_insecure_random_u64(&mut self) -> wasmtime::Result<u64> {
        Ok(self.random_u64()?)
    }
}

impl insecure_seed::Host for Guest {
    fn insecure_seed(&mut self) -> wasmtime::Result<(u64, u64)> {
        if !self.terms.grants.random {
            return Ok(FIXED_SEED);
        }
        Ok((self.random_u64()?, self.random_u64()?))
    }
}
