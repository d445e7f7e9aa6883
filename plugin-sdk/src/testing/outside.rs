//! What lies outside of a handler when it runs natively: as a test says, and nothing that the test has
//! not granted.

use std::{fmt, sync::Arc, time::Duration};

use super::contract::Broken;
use crate::http::{Error, Request, Response};

/// How a test answers requests.
type Respond = dyn Fn(&Request) -> Result<Response, Error> + Send + Sync;

/// What a test grants.
#[derive(Clone, Default)]
pub(super) struct Outside {
    /// The time in milliseconds since 1970.
    pub(super) clock_ms: Option<u64>,
    /// Where the row of random numbers begins.
    pub(super) seed: Option<u64>,
    pub(super) respond: Option<Arc<Respond>>,
}

impl fmt::Debug for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Outside");
        shown.field("clock_ms", &self.clock_ms).field("seed", &self.seed);
        shown.field("http", &self.respond.is_some()).finish()
    }
}

impl Outside {
    pub(super) fn clock(&mut self) -> Result<&mut u64, Broken> {
        self.clock_ms.as_mut().ok_or_else(|| "not granted: to read the clock (grants.clock)".to_owned())
    }

    pub(super) fn sleep(&mut self, duration: Duration) -> Result<(), Broken> {
        let now = self.clock()?;
        *now = now.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
        Ok(())
    }

    /// Numbers that look random and are the same for the same seed (splitmix64).
    pub(super) fn random(&mut self, count: usize) -> Result<Vec<u8>, Broken> {
        let seed = self.seed.as_mut();
        let seed = seed.ok_or_else(|| "not granted: to draw random numbers (grants.random)".to_owned())?;
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = *seed;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            bytes.extend((mixed ^ (mixed >> 31)).to_le_bytes());
        }
        bytes.truncate(count);
        Ok(bytes)
    }

    pub(super) fn respond(&self) -> Result<Arc<Respond>, Broken> {
        self.respond.clone().ok_or_else(|| "not granted: to send requests (grants.http)".to_owned())
    }
}
