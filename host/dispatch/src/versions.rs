//! Which versions handle a subscription, one after the other: makes the record of each change, has the new one
//! counted and watched, and knows what a return brings back. Kept by the controller; read by the [`crate::Handle`].

use std::sync::{Arc, Weak};

use brolly_core::{Digest, Guard, Handler, Name, Rollout, Subscription, Timestamp};
use brolly_ledger::{Cause, Ledger, Side, Swap};
use parking_lot::Mutex;

use crate::{
    Error,
    report::{Report, Stage},
    tenure::{Tenure, Watched},
};

/// The versions of one subscription.
#[derive(Default)]
pub(crate) struct Versions {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The latest change.
    swap: Option<Swap>,
    now: Option<Serving>,
    old: Option<Serving>,
    /// Why the next change comes about.
    announced: Option<Announced>,
    /// What is known of the latest rollout, once it was asked for.
    rollout: Option<Arc<Mutex<Report>>>,
    /// The latest change as it was written down.
    written: Option<Swap>,
}

/// A version with its handler, which is gone when its memory is given back.
struct Serving {
    tenure: Arc<Tenure>,
    handler: Weak<dyn Handler>,
}

/// A change that is about to be made.
#[derive(Clone, Debug)]
pub(crate) struct Announced {
    pub version: Digest,
    pub cause: Cause,
    pub by: Option<Name>,
    pub why: Option<String>,
}

impl Versions {
    /// Says why the version that is put next comes.
    pub(crate) fn announce(&self, announced: Announced) {
        self.state.lock().announced = Some(announced);
    }

    /// The time of the version that a definition wants. If that is another one than now, or on other terms,
    /// it takes over: there is a record of it before it gets its first delivery.
    pub(crate) fn tenure(
        &self,
        (name, ledger, now): (&Name, &Ledger, Timestamp),
        definition: &Subscription,
        handler: &Arc<dyn Handler>,
    ) -> Result<Arc<Tenure>, Error> {
        let terms = definition.terms();
        let mut state = self.state.lock();
        if let Some(serving) = state.now.as_mut().filter(|serving| serving.tenure.terms == terms) {
            serving.handler = Arc::downgrade(handler);
            return Ok(serving.tenure.clone());
        }
        let Some(known) = terms.clone() else {
            let tenure = Tenure::new(None, None, None);
            state.now = Some(Serving { tenure: tenure.clone(), handler: Arc::downgrade(handler) });
            return Ok(tenure);
        };
        let last = match &state.swap {
            Some(swap) => Some(swap.clone()),
            None => ledger.swaps(name, None, 1)?.into_iter().next(),
        };
        // None in memory is what the host ran before it started, or while the subscription rested.
        let ran = match &state.now {
            Some(serving) => serving.tenure.terms.clone(),
            None => ledger.terms(name)?,
        };
        if state.now.is_none()
            && let Some(swap) = last.clone().filter(|_| ran == terms)
        {
            // The host has started anew.
            let tenure =
                Tenure::going_on(terms, settled(&swap.new), watched(&swap, definition.guard.as_ref()));
            state.swap = Some(swap);
            state.now = Some(Serving { tenure: tenure.clone(), handler: Arc::downgrade(handler) });
            return Ok(tenure);
        }
        state.write(name, ledger, now)?;
        let announced = state.announced.take().filter(|announced| announced.version == known.version);
        let (cause, by, why) = announced.map_or((Cause::Put, None, None), |one| (one.cause, one.by, one.why));
        let old = state.now.take();
        let swap = Swap {
            number: last.as_ref().map_or(0, |swap| swap.number) + 1,
            at: now,
            cause,
            why,
            by,
            before: ran,
            version: known.version,
            old: match (&old, &last) {
                (Some(old), _) => old.tenure.side(),
                (None, Some(last)) => settled(&last.new),
                (None, None) => Side::default(),
            },
            new: Side::default(),
            freed_at: None,
        };
        let before = old.as_ref().map(|old| old.tenure.clone());
        let tenure = Tenure::new(terms, before, watched(&swap, definition.guard.as_ref()));
        state.now = Some(Serving { tenure: tenure.clone(), handler: Arc::downgrade(handler) });
        ledger.add_swap(name, &swap, &known)?;
        (state.old, state.written, state.swap) = (old, Some(swap.clone()), Some(swap));
        Ok(tenure)
    }

    /// Writes down what has changed in the latest record.
    pub(crate) fn write(&self, name: &Name, ledger: &Ledger, now: Timestamp) -> Result<(), Error> {
        self.state.lock().write(name, ledger, now)
    }

    /// Whether the old version is still there, or the new one is watched: then much may change soon.
    pub(crate) fn is_changing(&self, now: Timestamp) -> bool {
        let state = self.state.lock();
        state.old.is_some() || state.now.as_ref().is_some_and(|serving| serving.tenure.spares(now))
    }

    /// The latest change, as it stands.
    pub(crate) fn latest(&self, now: Timestamp) -> Option<Swap> {
        let mut state = self.state.lock();
        state.refresh(now);
        state.swap.clone()
    }

    /// The report of the rollout that a definition wants, which begins or goes on; none if that is wanted no
    /// more: a plan that was under way then must not bring back what has ended.
    pub(crate) fn report(
        &self,
        (name, ledger, now): (&Name, &Ledger, Timestamp),
        (definition, against): (&Rollout, Option<Digest>),
        wanted: impl FnOnce() -> bool,
    ) -> Result<Option<Arc<Mutex<Report>>>, Error> {
        let mut state = self.state.lock();
        if !wanted() {
            return Ok(None);
        }
        let known = state.rollout(name, ledger)?;
        if known.as_ref().is_some_and(|report| report.lock().is_of(definition, against)) {
            return Ok(known);
        }
        let report = Report::new(definition.clone(), against, now);
        ledger.put_rollout(name, &report)?;
        Ok(Some(state.rollout.insert(Arc::new(Mutex::new(report))).clone()))
    }

    /// What is known of the latest rollout.
    pub(crate) fn rollout(&self, name: &Name, ledger: &Ledger) -> Result<Option<Report>, Error> {
        Ok(self.state.lock().rollout(name, ledger)?.map(|report| report.lock().clone()))
    }

    /// The rollout has ended, if it was going on: this definition wants it no more.
    pub(crate) fn end_rollout(
        &self,
        (name, ledger, now): (&Name, &Ledger, Timestamp),
        definition: &Subscription,
        why: Option<String>,
    ) -> Result<(), Error> {
        let Some(report) = self.state.lock().rollout(name, ledger)? else { return Ok(()) };
        let mut report = report.lock();
        if report.stage == Stage::Running {
            report.end(definition, why, now);
            ledger.put_rollout(name, &report.fitting())?;
        }
        Ok(())
    }
}

impl State {
    /// The report of the latest rollout: the one that is kept, or what was written down before the host started.
    fn rollout(&mut self, name: &Name, ledger: &Ledger) -> Result<Option<Arc<Mutex<Report>>>, Error> {
        if self.rollout.is_none() {
            self.rollout = ledger.rollout::<Report>(name)?.map(|report| Arc::new(Mutex::new(report)));
        }
        Ok(self.rollout.clone())
    }

    /// Brings the latest record to what is known now.
    fn refresh(&mut self, now: Timestamp) {
        let (Some(swap), Some(serving)) = (&mut self.swap, &self.now) else { return };
        swap.new = serving.tenure.side();
        let Some(old) = &self.old else { return };
        // Asked before: what is read then has its last numbers.
        let is_gone = old.tenure.is_idle() && old.handler.strong_count() == 0;
        swap.old = old.tenure.side();
        if is_gone {
            // The clock may have been read before it finished.
            swap.freed_at.get_or_insert(swap.old.last_finished_at.map_or(now, |last| last.max(now)));
        }
    }

    /// Lets go of an old version that is done, whose own record then has its last numbers.
    fn let_go(&mut self, name: &Name, ledger: &Ledger) -> Result<(), Error> {
        let (Some(swap), Some(serving), Some(old)) = (&self.swap, &self.now, &self.old) else {
            return Ok(());
        };
        if swap.freed_at.is_none() {
            return Ok(());
        }
        let own = ledger.swaps(name, Some(swap.number), 1)?.into_iter().next();
        if let Some(mut own) = own.filter(|own| own.number + 1 == swap.number) {
            own.new = old.tenure.side();
            ledger.put_swap(name, &own)?;
        }
        serving.tenure.forget_before();
        self.old = None;
        Ok(())
    }

    fn write(&mut self, name: &Name, ledger: &Ledger, now: Timestamp) -> Result<(), Error> {
        self.refresh(now);
        self.let_go(name, ledger)?;
        if self.swap == self.written {
            return Ok(());
        }
        if let Some(swap) = &self.swap {
            ledger.put_swap(name, swap)?;
        }
        self.written = self.swap.clone();
        Ok(())
    }
}

/// What a version did before the host ended. What it had in hand then went back to its broker.
fn settled(side: &Side) -> Side {
    Side { taken: side.taken.saturating_sub(side.in_hand), in_hand: 0, ..side.clone() }
}

/// A version is watched that people or rules have put in the place of another one. One that came back is not:
/// what it would return to is what went wrong.
fn watched(swap: &Swap, guard: Option<&Guard>) -> Option<Watched> {
    let returns = match swap.cause {
        Cause::Put | Cause::Promoted => swap.before.is_some(),
        Cause::RolledBack | Cause::Returned => false,
    };
    let guard = guard.filter(|_| returns)?;
    Some(Watched { guard: guard.clone(), since: swap.at })
}

#[cfg(test)]
mod tests {
    use brolly_core::Decision;

    use super::*;
    use crate::forward::Forwarder;

    fn serving(before: Option<Arc<Tenure>>) -> Serving {
        // Nobody holds the handler any more.
        Serving { tenure: Tenure::new(None, before, None), handler: Weak::<Forwarder>::new() }
    }

    #[test]
    fn a_version_is_freed_when_it_has_finished_and_not_before() {
        let old = serving(None);
        let new = serving(Some(old.tenure.clone()));
        let swap = Swap {
            number: 2,
            at: Timestamp(10),
            cause: Cause::Put,
            why: None,
            by: None,
            before: None,
            version: Digest::from_bytes([7; 32]),
            old: Side::default(),
            new: Side::default(),
            freed_at: None,
        };
        let turn = old.tenure.clone();
        let mut turn = turn.take(1, Timestamp(9));
        let mut state = State { swap: Some(swap), now: Some(new), old: Some(old), ..State::default() };
        state.refresh(Timestamp(15));
        let known = state.swap.clone().unwrap();
        assert_eq!((known.old.in_hand, known.freed_at), (1, None));

        turn.ends(&Decision::Ack, Timestamp(20));
        drop(turn);
        // Who asks has read the clock before.
        state.refresh(Timestamp(18));
        let known = state.swap.clone().unwrap();
        assert_eq!((known.old.in_hand, known.old.last_finished_at), (0, Some(Timestamp(20))));
        assert_eq!(known.freed_at, Some(Timestamp(20)));
        state.refresh(Timestamp(30));
        assert_eq!(state.swap.unwrap().freed_at, Some(Timestamp(20)));
    }
}
