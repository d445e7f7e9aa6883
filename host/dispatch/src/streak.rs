//! A subscription that does nothing but retry goes slower: what its retries cost the broker and the disk, others
//! pay too.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use brolly_core::Decision;

/// Retries in a row, of all workers of a subscription, from which on it goes slower.
const LONG: u32 = 256;
/// The pause of a worker before its next delivery: it makes at most 1,000 attempts a second then.
const PAUSE: Duration = Duration::from_millis(1);

/// How many decisions in a row were retries.
#[derive(Debug, Default)]
pub(crate) struct Streak(AtomicU32);

impl Streak {
    pub(crate) fn tell(&self, decision: &Decision) {
        match decision {
            Decision::Retry { .. } => {
                // One that is long stays so: counting on would come round to nothing.
                let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
                    (now < LONG).then_some(now + 1)
                });
            }
            Decision::Ack | Decision::DeadLetter { .. } => self.0.store(0, Ordering::Relaxed),
            Decision::Release { .. } => {}
        }
    }

    /// How long a worker is to wait before it takes the next delivery, if it is.
    pub(crate) fn pause(&self) -> Option<Duration> {
        (self.0.load(Ordering::Relaxed) >= LONG).then_some(PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_long_run_of_retries_makes_slow() {
        let (streak, retry) = (
            Streak::default(),
            Decision::Retry { delay: Duration::ZERO, reason: String::new(), counts: true },
        );
        for _ in 1..LONG {
            streak.tell(&retry);
        }
        assert_eq!(streak.pause(), None);
        streak.tell(&Decision::Release { delay: Duration::ZERO, reason: String::new() });
        assert_eq!(streak.pause(), None);
        streak.tell(&retry);
        streak.tell(&retry);
        assert_eq!(streak.pause(), Some(PAUSE));
        streak.tell(&Decision::Ack);
        assert_eq!(streak.pause(), None);
    }
}
