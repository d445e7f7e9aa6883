//! The time, for handlers whose subscription grants it (`grants.clock`); without the grant a call ends
//! the attempt with a fault that says so. Steps are of a millisecond.
//!
//! What was read is kept with a captured attempt, so `brolly replay` gives the same times again. For
//! deciding how old a message is, `published_at_ms` of the delivery is often enough, and needs no grant.
//!
//! ```
//! use brolly_plugin::{Delivery, Failure, clock, handler, testing::Harness};
//!
//! #[handler]
//! fn handle(delivery: Delivery) -> Result<(), Failure> {
//!     let age_ms = clock::now_ms().saturating_sub(delivery.published_at_ms);
//!     if age_ms > 60_000 { Err(Failure::reject("it is too late")) } else { Ok(()) }
//! }
//!
//! let mut harness = Harness::new().clock(100_000);
//! harness.delivery("").published_at_ms(40_000).run(handle).assert_ack();
//! harness.delivery("").published_at_ms(39_999).run(handle).assert_reject("too late");
//! ```

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::host;

/// The present moment.
#[must_use]
pub fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(now_ms())
}

/// The present moment in milliseconds since the Unix epoch, UTC. It may step when the clock of the
/// host's machine is set.
#[must_use]
pub fn now_ms() -> u64 {
    host::clock_now_ms()
}

/// Time since some moment that stays the same during an attempt: the difference of two answers is how
/// long something took.
#[must_use]
pub fn monotonic() -> Duration {
    Duration::from_millis(host::clock_monotonic_ms())
}

/// Waits. The worker waits too, and the time counts against `limits.time_ms`: to try again later, answer
/// with [`crate::Failure::retry_after`].
pub fn sleep(duration: Duration) {
    host::clock_sleep(duration);
}
