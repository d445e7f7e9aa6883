//! Claims on message ids: who looks an id up and finds it new holds it until its message is durable,
//! so that two who meet the same id at the same time give its message one number. Called by
//! `messages`; pure memory.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Weak},
};

use brolly_core::{MessageId, Name};
use parking_lot::{Mutex, MutexGuard};

/// Locks, so that few look-ups wait for each other.
const SHARDS: usize = 64;

type Pending = HashMap<(Name, MessageId), Weak<Claim>>;

/// The ids that are claimed.
pub(crate) struct Claims {
    hasher: RandomState,
    shards: Vec<Mutex<Pending>>,
}

/// A claim on the id of a message that is not stored yet. To be held until the commit that stores
/// the message is durable, or until it is given up; shared by all who met the id meanwhile.
pub struct Claim {
    seq: u64,
    id: (Name, MessageId),
    claims: Weak<Claims>,
}

impl Claim {
    /// The number that the message gets.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.seq
    }
}

impl std::fmt::Debug for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Claim({} {} {})", self.seq, self.id.0, self.id.1)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let Some(claims) = self.claims.upgrade() else { return };
        let mut pending = claims.shard(&self.id);
        // Another claim may have taken its place since the last holder let go.
        if pending.get(&self.id).is_some_and(|claim| claim.strong_count() == 0) {
            pending.remove(&self.id);
        }
    }
}

impl Default for Claims {
    fn default() -> Self {
        let shards = std::iter::repeat_with(Mutex::default).take(SHARDS).collect();
        Self { hasher: RandomState::new(), shards }
    }
}

impl Claims {
    /// The shard of an id, locked.
    #[allow(clippy::indexing_slicing, reason = "the remainder is below the number of shards")]
    fn shard(&self, id: &(Name, MessageId)) -> MutexGuard<'_, Pending> {
        let hash = self.hasher.hash_one(id);
        self.shards[usize::try_from(hash % SHARDS as u64).unwrap_or(0)].lock()
    }

    /// The claim on an id that is there, or a new one with the number that `number` gives, unless
    /// `stored` finds the message. INVARIANT: `stored` looks while the id is locked, so no claim on it
    /// can end between the two looks.
    pub(crate) fn claim<S, E>(
        self: &Arc<Self>,
        topic: &Name,
        id: &str,
        stored: impl FnOnce() -> Result<Option<S>, E>,
        number: impl FnOnce() -> u64,
    ) -> Result<Claimed<S>, E> {
        let id = (topic.clone(), id.to_owned());
        let mut pending = self.shard(&id);
        if let Some(claim) = pending.get(&id).and_then(Weak::upgrade) {
            // Dropping the last holder takes the lock: it must not happen here.
            drop(pending);
            return Ok(Claimed::Pending(claim));
        }
        if let Some(found) = stored()? {
            return Ok(Claimed::Stored(found));
        }
        let claim = Arc::new(Claim { seq: number(), id: id.clone(), claims: Arc::downgrade(self) });
        pending.insert(id, Arc::downgrade(&claim));
        Ok(Claimed::New(claim))
    }
}

/// What came of a look-up.
pub(crate) enum Claimed<S> {
    Stored(S),
    New(Arc<Claim>),
    Pending(Arc<Claim>),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(claims: &Arc<Claims>, stored: Option<u64>, number: u64) -> Claimed<u64> {
        let topic = Name::new("t").unwrap();
        claims.claim(&topic, "m", || Ok::<_, ()>(stored), || number).unwrap()
    }

    #[test]
    fn an_id_has_one_number_for_as_long_as_anybody_holds_it() {
        let claims = Arc::new(Claims::default());
        let Claimed::New(first) = claim(&claims, None, 1) else { panic!("it is new") };
        let Claimed::Pending(second) = claim(&claims, None, 2) else { panic!("it is claimed") };
        assert_eq!((first.seq(), second.seq()), (1, 1));
        drop(first);
        assert!(matches!(claim(&claims, None, 3), Claimed::Pending(_)));
        drop(second);
        assert!(matches!(claim(&claims, Some(1), 4), Claimed::Stored(1)));
        let Claimed::New(third) = claim(&claims, None, 5) else { panic!("it is new again") };
        assert_eq!(third.seq(), 5);
    }
}
