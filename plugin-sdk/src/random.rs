//! Random numbers from the host's system, fit for secrets, for handlers whose subscription grants them
//! (`grants.random`); without the grant a call ends the attempt with a fault that says so.
//!
//! What was drawn is kept with a captured attempt, so `brolly replay` gives the same numbers again. For
//! the id of something that a delivery brings about, a random number is the wrong choice: each attempt
//! draws another one. Derive it from `delivery.idempotency_key`.

use crate::host;

/// Random bytes: at most 65,536.
#[must_use]
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&host::random(N));
    bytes
}

/// A random number, each as likely as any other.
#[must_use]
pub fn u64() -> u64 {
    u64::from_le_bytes(bytes())
}
