//! Holding back the deliveries of one subscription that need something which cannot be reached. Pure: the
//! worker tells it what came of attempts, and asks before it makes one.
//!
//! A dependency that an attempt names is down. Deliveries that have named it rest until its pause is over;
//! then one of them is let through as a probe. If that names it again, the pause doubles; if not, twice as many
//! are let through at the same time after each that is handled, until the dependency is up again.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use brolly_core::Timestamp;
use parking_lot::Mutex;

/// The first pause, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// With so many let through at once the dependency is up.
const WIDE_OPEN: u32 = 64;
/// How long a delivery rests that finds all places of a dependency taken which is coming back.
const TURN: Duration = Duration::from_millis(250);
/// Dependencies of a subscription that are known at the same time; an attempt that names one more is tried
/// again as any other, though not counted.
pub(crate) const DEPENDENCIES: usize = 100;
/// Deliveries whose dependency is remembered; one that is not is let through, and names it again.
pub(crate) const HELD: usize = 100_000;

/// What is down, and who needs it.
#[derive(Default)]
pub(crate) struct Breaker {
    down: BTreeMap<String, Down>,
    /// By the number of the message: what it has named.
    needs: HashMap<u64, String>,
}

struct Down {
    since: Timestamp,
    /// When the next probe may be made.
    until: Timestamp,
    pause: Duration,
    reason: String,
    /// How many may be tried at the same time once the pause is over.
    places: u32,
    trying: u32,
}

/// What people are shown of a dependency that is down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dependency {
    /// Its name.
    pub name: String,
    /// Since when.
    pub since: Timestamp,
    /// When the next probe is made.
    pub next_probe: Timestamp,
    /// Deliveries that are held back for it.
    pub held: u64,
    /// Whether a probe was handled, and it is let up slowly.
    pub recovering: bool,
    /// What the latest attempt that named it said.
    pub reason: String,
}

/// Leave to attempt a delivery. However the attempt ends, the place that it takes is free again.
pub(crate) struct Pass<'a> {
    breaker: &'a Mutex<Breaker>,
    record: u64,
}

impl<'a> Pass<'a> {
    /// Leave for a delivery; otherwise how long it rests. `spread` is in [0, 1).
    pub(crate) fn for_delivery(
        breaker: &'a Mutex<Breaker>,
        record: u64,
        now: Timestamp,
        spread: f64,
    ) -> Result<Self, Duration> {
        breaker.lock().admit(record, now, spread)?;
        Ok(Self { breaker, record })
    }

    /// The attempt has named what it could not reach: how long its delivery rests.
    pub(crate) fn missed(&self, name: &str, reason: &str, now: Timestamp, spread: f64) -> Option<Duration> {
        self.breaker.lock().missed(self.record, name, reason, now, spread)
    }

    /// The handler has answered, and named nothing.
    pub(crate) fn answered(self) {
        self.breaker.lock().ends(self.record, true);
        // A second end finds nothing.
    }

    /// The delivery rests with what it has named.
    pub(crate) fn rests(self) {
        std::mem::forget(self);
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.breaker.lock().gives_up(self.record);
    }
}

impl Breaker {
    /// Whether a delivery may be attempted now; otherwise how long it rests. `spread` is in [0, 1).
    fn admit(&mut self, record: u64, now: Timestamp, spread: f64) -> Result<(), Duration> {
        let Some(down) = self.needs.get(&record).and_then(|name| self.down.get_mut(name)) else {
            return Ok(());
        };
        if now < down.until {
            return Err(down.until.since(now) + down.pause.mul_f64(spread));
        }
        if down.trying >= down.places {
            return Err(TURN + TURN.mul_f64(spread));
        }
        down.trying += 1;
        Ok(())
    }

    /// An attempt has named what it could not reach: how long its delivery rests.
    fn missed(
        &mut self,
        record: u64,
        name: &str,
        reason: &str,
        now: Timestamp,
        spread: f64,
    ) -> Option<Duration> {
        self.ends(record, false);
        if !self.down.contains_key(name) && self.down.len() >= DEPENDENCIES {
            return None;
        }
        let down = self.down.entry(name.to_owned()).or_insert_with(|| Down {
            since: now,
            until: now.after(FIRST_PAUSE),
            pause: FIRST_PAUSE,
            reason: String::new(),
            places: 1,
            trying: 0,
        });
        reason.clone_into(&mut down.reason);
        if now >= down.until {
            down.pause = (down.pause * 2).min(LONGEST_PAUSE);
            down.until = now.after(down.pause);
            down.places = 1;
        }
        if self.needs.len() < HELD {
            self.needs.insert(record, name.to_owned());
        }
        Some(down.until.since(now) + down.pause.mul_f64(spread))
    }

    /// An attempt has ended without naming anything; `passed` if the handler has answered.
    fn ends(&mut self, record: u64, passed: bool) {
        let Some(name) = self.needs.remove(&record) else { return };
        let Some(down) = self.down.get_mut(&name) else { return };
        down.trying = down.trying.saturating_sub(1);
        if !passed {
            return;
        }
        down.places = down.places.saturating_mul(2);
        let held = self.needs.values().any(|needed| *needed == name);
        if down.places >= WIDE_OPEN || !held {
            self.down.remove(&name);
            self.needs.retain(|_, needed| *needed != name);
        }
    }

    /// A delivery does not need anything any more, as far as is known; what nobody needs is not shown as down.
    fn gives_up(&mut self, record: u64) {
        let needed = self.needs.get(&record).cloned();
        self.ends(record, false);
        if let Some(name) = needed.filter(|name| self.needs.values().all(|other| other != name)) {
            self.down.remove(&name);
        }
    }

    /// What is down.
    pub(crate) fn read(&self) -> Vec<Dependency> {
        let held = |name: &String| self.needs.values().filter(|needed| *needed == name).count() as u64;
        let shown = |(name, down): (&String, &Down)| Dependency {
            name: name.clone(),
            since: down.since,
            next_probe: down.until,
            held: held(name),
            recovering: down.places > 1,
            reason: down.reason.clone(),
        };
        self.down.iter().map(shown).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(ms: u64) -> Timestamp {
        Timestamp(ms)
    }

    #[test]
    fn exactly_those_that_need_it_rest_until_a_probe_passes() {
        let mut breaker = Breaker::default();
        assert!(breaker.down.is_empty());
        assert_eq!(breaker.missed(1, "insurer", "503", at(0), 0.0), Some(FIRST_PAUSE));
        breaker.missed(2, "insurer", "503", at(10), 0.0);
        breaker.missed(3, "mail", "refused", at(10), 0.0);
        assert_eq!(breaker.admit(9, at(11), 0.0), Ok(()), "it has named nothing");
        assert_eq!(breaker.admit(1, at(400), 0.0), Err(Duration::from_millis(600)));
        // One probe, and no second beside it.
        assert_eq!(breaker.admit(1, at(1_000), 0.0), Ok(()));
        assert_eq!(breaker.admit(2, at(1_000), 0.0), Err(TURN));
        let shown = breaker.read();
        assert_eq!((shown[0].name.as_str(), shown[0].held, shown[1].held), ("insurer", 2, 1));
        // It fails: twice the pause.
        assert_eq!(breaker.missed(1, "insurer", "503", at(1_100), 0.0), Some(FIRST_PAUSE * 2));
        assert_eq!(breaker.admit(2, at(3_099), 0.0), Err(Duration::from_millis(1)));
        assert_eq!(breaker.admit(2, at(3_100), 0.0), Ok(()));
        breaker.ends(2, true);
        assert_eq!(breaker.admit(1, at(3_101), 0.0), Ok(()));
        breaker.ends(1, true);
        // Nobody is held for it any more.
        assert_eq!(breaker.read().len(), 1);
        assert_eq!(breaker.admit(3, at(5_000), 0.0), Ok(()));
        breaker.ends(3, true);
        assert!(breaker.down.is_empty());
    }

    #[test]
    fn it_is_let_up_slowly() {
        let mut breaker = Breaker::default();
        for record in 0..500 {
            breaker.missed(record, "insurer", "503", at(0), 0.0);
        }
        let (mut next, mut waves) = (0, Vec::new());
        while !breaker.down.is_empty() {
            let first = next;
            while next < 500 && breaker.admit(next, at(2_000), 0.0).is_ok() && !breaker.down.is_empty() {
                next += 1;
                if next - first > 64 {
                    break;
                }
            }
            waves.push(next - first);
            (first..next).for_each(|record| breaker.ends(record, true));
        }
        assert_eq!(waves.first(), Some(&1));
        assert!(waves.windows(2).all(|pair| pair[0] < pair[1]), "{waves:?}");
    }

    #[test]
    fn pauses_are_spread_and_bounded() {
        let mut breaker = Breaker::default();
        let mut now = 0;
        for _ in 0..12 {
            let pause = breaker.missed(1, "insurer", "503", at(now), 0.999).unwrap();
            assert!(pause <= LONGEST_PAUSE * 2);
            now += brolly_core::whole_ms(pause) + 1;
            assert_eq!(breaker.admit(1, at(now), 0.5), Ok(()));
        }
        assert_eq!(breaker.down["insurer"].pause, LONGEST_PAUSE);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut breaker = Breaker::default();
        for name in 0..DEPENDENCIES {
            assert!(breaker.missed(name as u64, &name.to_string(), "r", at(0), 0.0).is_some());
        }
        assert_eq!(breaker.missed(7_000, "one more", "r", at(0), 0.0), None);
        let mut breaker = Breaker::default();
        for record in 0..=HELD as u64 {
            breaker.missed(record, "insurer", "r", at(0), 0.0);
        }
        assert_eq!(breaker.needs.len(), HELD);
        assert_eq!(breaker.admit(HELD as u64, at(1), 0.0), Ok(()), "it is let through and names it again");
    }

    #[test]
    fn an_attempt_that_breaks_off_gives_its_place_back() {
        let breaker = Mutex::new(Breaker::default());
        for record in [1, 2] {
            let pass = Pass::for_delivery(&breaker, record, at(0), 0.0).unwrap();
            pass.missed("insurer", "503", at(0), 0.0);
            pass.rests();
        }
        let probe = Pass::for_delivery(&breaker, 1, at(1_000), 0.0).unwrap();
        assert_eq!(Pass::for_delivery(&breaker, 2, at(1_000), 0.0).err(), Some(TURN));
        drop(probe);
        let last = Pass::for_delivery(&breaker, 2, at(1_000), 0.0).unwrap();
        assert_eq!(breaker.lock().read()[0].held, 1);
        // Nobody is left who needs it, as when the last one has expired.
        drop(last);
        assert!(breaker.lock().down.is_empty());
    }
}
