//! Claims on message ids. Who looks an id up and finds it new holds it until its message is durable, so
//! that two who meet the same id at the same time give its message one number. Who finds it stored, and
//! writes something of it later, holds it as well, so that it is not forgotten meanwhile. Called by
//! `messages`; pure memory.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use brolly_core::{MessageId, Name};
use parking_lot::{Mutex, MutexGuard};

/// Locks, so that few look-ups wait for each other.
const SHARDS: usize = 64;

/// The ids that are taken.
pub(crate) struct Claims {
    hasher: RandomState,
    shards: Vec<Mutex<Shard>>,
    /// How many are being forgotten; while none is, nobody needs to look.
    forgotten: AtomicUsize,
}

#[derive(Default)]
struct Shard {
    claimed: HashMap<(Name, MessageId), Weak<Claim>>,
    /// Those whose message goes with a commit that is not durable yet: who comes now comes after it.
    forgotten: HashSet<(Name, MessageId)>,
}

/// A claim on the id of a message. Of one that is not stored yet: to be held until the commit that stores
/// it is durable, or until it is given up; shared by all who met the id meanwhile. Of one that is stored:
/// to be held by who is about to write something of it until that is durable; it is not forgotten before.
pub struct Claim {
    seq: u64,
    stored: bool,
    id: (Name, MessageId),
    claims: Weak<Claims>,
}

impl Claim {
    /// The number that the message has, or gets.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.seq
    }
}

/// An id whose message goes. To be kept until that is durable.
pub(crate) struct Gone {
    id: (Name, MessageId),
    claims: Weak<Claims>,
}

impl Drop for Gone {
    fn drop(&mut self) {
        let Some(claims) = self.claims.upgrade() else { return };
        claims.shard(&self.id).forgotten.remove(&self.id);
        claims.forgotten.fetch_sub(1, Ordering::Relaxed);
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
        let mut shard = claims.shard(&self.id);
        // Another claim may have taken its place since the last holder let go.
        if shard.claimed.get(&self.id).is_some_and(|claim| claim.strong_count() == 0) {
            shard.claimed.remove(&self.id);
        }
    }
}

impl Default for Claims {
    fn default() -> Self {
        let shards = std::iter::repeat_with(Mutex::default).take(SHARDS).collect();
        Self { hasher: RandomState::new(), shards, forgotten: AtomicUsize::new(0) }
    }
}

impl Claims {
    /// The shard of an id, locked.
    #[allow(clippy::indexing_slicing, reason = "the remainder is below the number of shards")]
    fn shard(&self, id: &(Name, MessageId)) -> MutexGuard<'_, Shard> {
        let hash = self.hasher.hash_one(id);
        self.shards[usize::try_from(hash % SHARDS as u64).unwrap_or(0)].lock()
    }

    /// The claim on an id that is there, or a new one: with the number of the message if `stored` finds it,
    /// else with the one that `number` gives. INVARIANT: `stored` looks while the id is locked, so no claim
    /// on it can end, and its message cannot go, between the two looks.
    pub(crate) fn claim<S, E>(
        self: &Arc<Self>,
        topic: &Name,
        id: &str,
        stored: impl FnOnce() -> Result<Option<(u64, S)>, E>,
        number: impl FnOnce() -> u64,
    ) -> Result<Claimed<S>, E> {
        let id = (topic.clone(), id.to_owned());
        let mut shard = self.shard(&id);
        if let Some(claim) = shard.claimed.get(&id).and_then(Weak::upgrade) {
            let found = if claim.stored { stored() } else { Ok(None) };
            // Dropping the last holder takes the lock: it must not happen before.
            drop(shard);
            return Ok(match found? {
                Some((_, found)) => Claimed::Stored(claim, found),
                None => Claimed::Pending(claim),
            });
        }
        let found = if shard.forgotten.contains(&id) { None } else { stored()? };
        let seq = found.as_ref().map_or_else(number, |(seq, _)| *seq);
        let claims = Arc::downgrade(self);
        let claim = Arc::new(Claim { seq, stored: found.is_some(), id: id.clone(), claims });
        shard.claimed.insert(id, Arc::downgrade(&claim));
        Ok(match found {
            Some((_, found)) => Claimed::Stored(claim, found),
            None => Claimed::New(claim),
        })
    }

    /// Whether the message of an id goes with a commit that is not durable yet.
    pub(crate) fn is_forgotten(&self, topic: &Name, id: &str) -> bool {
        if self.forgotten.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let id = (topic.clone(), id.to_owned());
        self.shard(&id).forgotten.contains(&id)
    }

    /// Has `remove` remove the message of an id, unless the id is taken; tells whether it did. `remove` keeps
    /// what it is given until that is durable, or answers that the message stays. INVARIANT: `remove` looks
    /// and submits while the id is locked, so whoever claims it next submits after it.
    pub(crate) fn forget<E>(
        self: &Arc<Self>,
        topic: &Name,
        id: &str,
        remove: impl FnOnce(Arc<Gone>) -> Result<bool, E>,
    ) -> Result<bool, E> {
        let id = (topic.clone(), id.to_owned());
        // Named before the lock, which its end takes, so that it is dropped after it whatever happens.
        let gone;
        let mut shard = self.shard(&id);
        let is_claimed = shard.claimed.get(&id).is_some_and(|claim| claim.strong_count() > 0);
        if is_claimed || !shard.forgotten.insert(id.clone()) {
            return Ok(false);
        }
        self.forgotten.fetch_add(1, Ordering::Relaxed);
        gone = Arc::new(Gone { id, claims: Arc::downgrade(self) });
        remove(gone.clone())
    }
}

/// What came of a look-up.
pub(crate) enum Claimed<S> {
    Stored(Arc<Claim>, S),
    New(Arc<Claim>),
    Pending(Arc<Claim>),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic() -> Name {
        Name::new("t").unwrap()
    }

    fn claim(claims: &Arc<Claims>, stored: Option<u64>, number: u64) -> Claimed<()> {
        let stored = stored.map(|seq| (seq, ()));
        claims.claim(&topic(), "m", || Ok::<_, ()>(stored), || number).unwrap()
    }

    fn forget(claims: &Arc<Claims>) -> Option<Arc<Gone>> {
        let mut kept = None;
        let forgotten = claims.forget(&topic(), "m", |gone| {
            kept = Some(gone);
            Ok::<_, ()>(true)
        });
        assert_eq!(forgotten, Ok(kept.is_some()));
        kept
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
        let Claimed::Stored(stored, ()) = claim(&claims, Some(1), 4) else { panic!("it is stored") };
        assert_eq!(stored.seq(), 1);
        assert!(matches!(claim(&claims, Some(1), 5), Claimed::Stored(..)));
        drop(stored);
        let Claimed::New(third) = claim(&claims, None, 6) else { panic!("it is new again") };
        assert_eq!(third.seq(), 6);
    }

    #[test]
    fn what_somebody_holds_is_not_forgotten() {
        let claims = Arc::new(Claims::default());
        for stored in [None, Some(1)] {
            let held = claim(&claims, stored, 1);
            assert!(forget(&claims).is_none(), "it is held");
            drop(held);
            assert!(forget(&claims).is_some());
        }
        let panics = || claims.forget(&topic(), "m", |_| -> Result<bool, ()> { panic!("of a test") });
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).unwrap_err();
        let stays = claims.forget(&topic(), "m", |_| Ok::<_, ()>(false));
        assert_eq!(stays, Ok(false));
        assert!(!claims.is_forgotten(&topic(), "m"));
    }

    #[test]
    fn what_is_being_forgotten_is_new_to_whoever_comes() {
        let claims = Arc::new(Claims::default());
        let gone = forget(&claims).unwrap();
        assert!(claims.is_forgotten(&topic(), "m") && !claims.is_forgotten(&topic(), "other"));
        assert!(forget(&claims).is_none(), "once is enough");
        // The store still has it.
        for number in 2..4 {
            let Claimed::New(claim) = claim(&claims, Some(1), number) else { panic!("it is new") };
            assert_eq!(claim.seq(), number);
        }
        let Claimed::New(held) = claim(&claims, Some(1), 4) else { panic!("it is new") };
        drop(gone);
        assert!(!claims.is_forgotten(&topic(), "m"));
        assert!(matches!(claim(&claims, Some(1), 5), Claimed::Pending(_)), "it is held");
        drop(held);
        assert!(claims.shards.iter().all(|shard| shard.lock().claimed.is_empty()));
        assert_eq!(claims.forgotten.load(Ordering::Relaxed), 0);
    }
}
