//! The queues in which messages wait for their next attempt: one for each power of two of the delay,
//! made when it is first needed.
//!
//! Called by sends, counts and deletions. RabbitMQ lets a message go only when it is the first of its
//! queue, so a message can wait behind one that waits longer, but never twice as long as it should.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::Duration,
};

use brolly_core::whole_ms;
use parking_lot::Mutex;

use crate::{error::Error, session::Session, topology::wait_arguments};

/// The power of two of the shortest queue's delay; what is due sooner does not wait.
const SHORTEST: u32 = 6;
/// That of the longest.
const LONGEST: u32 = 27;
/// The longest time-to-live that RabbitMQ knows, in milliseconds: 49 days.
pub(crate) const LIMIT_MS: u64 = u32::MAX as u64;

/// The wait queues that this process knows of.
#[derive(Default)]
pub(crate) struct Waits(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// The session in which `made` is true.
    session: u64,
    made: HashSet<String>,
    steps: HashMap<String, BTreeSet<u32>>,
    /// Queues of which it is known which wait queues earlier processes have made.
    searched: HashSet<String>,
}

fn step(delay_ms: u64) -> Option<u32> {
    let step = delay_ms.checked_ilog2()?;
    (step >= SHORTEST).then_some(step.min(LONGEST))
}

fn name(address: &str, step: u32) -> String {
    format!("{address}.wait.{}", 1_u64 << step)
}

/// The queue in which a message for `address` waits, and for how many milliseconds; none if it need
/// not wait.
pub(crate) fn queue_for(address: &str, delay: Duration) -> Option<(String, u64)> {
    let ms = whole_ms(delay);
    Some((name(address, step(ms)?), ms))
}

impl Waits {
    /// Makes the wait queue, if this session has not made it.
    pub(crate) async fn make(&self, session: &Session, address: &str, delay: Duration) -> Result<(), Error> {
        let ms = whole_ms(delay);
        let Some(step) = step(ms) else { return Ok(()) };
        let queue = name(address, step);
        {
            let mut known = self.0.lock();
            if known.session != session.generation {
                known.session = session.generation;
                known.made.clear();
            }
            if known.made.contains(&queue) {
                return Ok(());
            }
        }
        session.queue(&queue, wait_arguments(address)).await?;
        let mut known = self.0.lock();
        known.steps.entry(address.to_owned()).or_default().insert(step);
        if known.session == session.generation {
            known.made.insert(queue);
        }
        Ok(())
    }

    /// A wait queue is gone: it is made again when it is needed.
    pub(crate) fn doubt(&self, queue: &str) {
        self.0.lock().made.remove(queue);
    }

    /// Each wait queue of a queue with the number of messages in it.
    pub(crate) async fn counts(&self, session: &Session, address: &str) -> Result<Vec<(String, u64)>, Error> {
        let searched = self.0.lock().searched.contains(address);
        let steps: Vec<u32> = if searched {
            self.0.lock().steps.get(address).into_iter().flatten().copied().collect()
        } else {
            (SHORTEST..=LONGEST).collect()
        };
        let mut counts = Vec::new();
        for step in steps {
            let queue = name(address, step);
            match session.look(&queue).await? {
                Some(view) => {
                    self.0.lock().steps.entry(address.to_owned()).or_default().insert(step);
                    counts.push((queue, view.ready));
                }
                None => {
                    let mut known = self.0.lock();
                    known.made.remove(&queue);
                    if let Some(steps) = known.steps.get_mut(address) {
                        steps.remove(&step);
                    }
                }
            }
        }
        self.0.lock().searched.insert(address.to_owned());
        Ok(counts)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn short_delays_do_not_wait_and_long_ones_share_the_last_queue() {
        let queue = |ms| queue_for("q", Duration::from_millis(ms)).map(|(queue, _)| queue);
        assert_eq!(queue(0), None);
        assert_eq!(queue(63), None);
        assert_eq!(queue(64).as_deref(), Some("q.wait.64"));
        assert_eq!(queue(127).as_deref(), Some("q.wait.64"));
        assert_eq!(queue(128).as_deref(), Some("q.wait.128"));
        assert_eq!(queue(86_400_000).as_deref(), Some("q.wait.67108864"));
        assert_eq!(queue(u64::MAX).as_deref(), Some("q.wait.134217728"));
    }

    proptest! {
        #[test]
        fn no_delay_of_a_day_waits_behind_one_twice_as_long(ms in 64_u64..86_400_000) {
            let queue = queue_for("q", Duration::from_millis(ms)).unwrap().0;
            let step: u64 = queue.rsplit('.').next().unwrap().parse().unwrap();
            prop_assert!(step <= ms && ms < 2 * step);
        }
    }
}
