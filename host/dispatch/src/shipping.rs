//! Changing the version of a subscription, as people ask for it and as the host does by itself: swaps with
//! their records, the way back, rollouts. Called by the admin through [`Handle`], and by controllers.

use std::sync::Arc;

use brolly_catalog::{Entry, Precondition};
use brolly_core::{Code, Digest, Name, Refusal, Rollout, Subscription, Terms};
use brolly_ledger::{Cause, Swap};

use crate::{
    Error, Handle,
    controller::Parts,
    handle::blocking,
    report::{Report, Stage},
    status::Board,
    versions::Announced,
};

/// What changes the version of one subscription.
pub(crate) struct Shipping<'a> {
    pub name: &'a Name,
    pub parts: &'a Parts,
    pub board: &'a Board,
    /// Whose token asked for it; none for the host itself.
    pub author: Option<&'a Name>,
}

impl Shipping<'_> {
    /// Goes back to what a subscription ran on before a change of it: the latest one, or the one with a
    /// number. `from` is the version that is to go, if it matters that it is still there.
    pub(crate) async fn go_back(
        &self,
        from: Option<Digest>,
        number: Option<u64>,
        why: Option<String>,
    ) -> Result<Entry<Subscription>, Error> {
        let terms = self.before(number)?;
        let cause = if why.is_some() { Cause::Returned } else { Cause::RolledBack };
        self.announce(terms.version, cause, why);
        self.update(|present| {
            if from.is_some() && present.version != from {
                return Err(changed(self.name));
            }
            Ok(present.on(terms))
        })
        .await
    }

    /// What the subscription ran on before a change.
    fn before(&self, number: Option<u64>) -> Result<Terms, Error> {
        let latest = self.board.versions.latest(self.parts.clock.now());
        let wanted = |swap: &Swap| number.is_none_or(|number| swap.number == number);
        let swap = match latest.filter(wanted) {
            Some(swap) => Some(swap),
            None => {
                let before = number.map(|number| number.saturating_add(1));
                self.parts.ledger.swaps(self.name, before, 1)?.into_iter().next().filter(wanted)
            }
        };
        swap.and_then(|swap| swap.before).ok_or_else(|| {
            let what = match number {
                Some(number) => format!("has no change {number} with a version before it"),
                None => "has had one version only".to_owned(),
            };
            Refusal::new(Code::NotFound, format!("the subscription {} {what}", self.name)).into()
        })
    }

    /// Ends the rollout of the subscription: the candidate takes over, or goes.
    pub(crate) async fn end_rollout(
        &self,
        promote: bool,
        why: Option<String>,
    ) -> Result<Entry<Subscription>, Error> {
        let none = || {
            let detail = format!("the subscription {} has no rollout; PUT one first", self.name);
            Refusal::new(Code::NotFound, detail)
        };
        let snapshot = self.parts.catalog.snapshot();
        let present = snapshot.subscriptions.get(self.name).map(|entry| entry.value.clone());
        let rollout = present.and_then(|present| present.rollout.clone()).ok_or_else(none)?;
        if promote {
            self.announce(rollout.version, Cause::Promoted, why.clone());
        }
        let entry = self
            .update(|present| match &present.rollout {
                None => Err(none()),
                Some(now) if *now != rollout => Err(changed(self.name)),
                Some(_) if promote => Ok(present.candidate().unwrap_or_else(|| present.clone())),
                Some(_) => Ok(Subscription { rollout: None, ..present.clone() }),
            })
            .await?;
        let place = (self.name, &*self.parts.ledger, self.parts.clock.now());
        self.board.versions.end_rollout(place, &entry.value, why)?;
        Ok(entry)
    }

    fn announce(&self, version: Digest, cause: Cause, why: Option<String>) {
        self.board.versions.announce(Announced { version, cause, by: self.author.cloned(), why });
    }

    async fn update(
        &self,
        change: impl FnOnce(&Subscription) -> Result<Subscription, Refusal>,
    ) -> Result<Entry<Subscription>, Error> {
        let put = self.parts.catalog.update(
            self.name,
            Precondition::None,
            self.author,
            |present: Option<&Subscription>| match present {
                Some(present) => change(present),
                None => Err(Refusal::not_found("subscription", self.name.as_str())),
            },
        );
        Ok(put.await?.entry)
    }
}

fn changed(name: &Name) -> Refusal {
    let detail = format!("the subscription {name} was changed meanwhile; read it again and decide anew");
    Refusal::new(Code::Changed, detail)
}

impl Handle {
    /// Changes of what handles a subscription, newest first and older than `before`, at most `limit`.
    ///
    /// # Errors
    /// [`Code::NotFound`]; a failing store.
    pub async fn swaps(&self, name: &Name, before: Option<u64>, limit: usize) -> Result<Vec<Swap>, Error> {
        let board = self.board(name)?;
        let (ledger, of) = (self.parts().ledger.clone(), name.clone());
        let mut swaps = blocking("reading swaps", move || ledger.swaps(&of, before, limit)).await??;
        if let Some(latest) = board.versions.latest(self.now())
            && let Some(first) = swaps.first_mut().filter(|first| first.number == latest.number)
        {
            *first = latest;
        }
        Ok(swaps)
    }

    /// Goes back to the version before the latest change, or before the change with this number, with its
    /// configuration, limits and grants.
    ///
    /// # Errors
    /// [`Code::NotFound`] if there is none, [`Code::UnknownReference`] if it was removed; what the
    /// plugin runtime refuses.
    pub async fn roll_back(&self, name: &Name, number: Option<u64>) -> Result<Entry<Subscription>, Error> {
        let board = self.board(name)?;
        self.shipping(name, &board).go_back(None, number, None).await
    }

    /// What is known of the latest rollout of a subscription.
    ///
    /// # Errors
    /// [`Code::NotFound`] if there never was one.
    pub fn rollout(&self, name: &Name) -> Result<Report, Error> {
        // In this order: a report that is newer than the definition would look like one that is wanted no more.
        let mut report = self.board(name)?.versions.rollout(name, &self.parts().ledger)?;
        let subscription = self.get::<Subscription>(name)?;
        let (wanted, against) = (&subscription.value.rollout, subscription.value.version);
        match wanted {
            // It was put a moment ago, and nothing is compared yet.
            Some(wanted) if !report.as_ref().is_some_and(|report| report.is_of(wanted, against)) => {
                report = Some(Report::new(wanted.clone(), against, self.now()));
            }
            Some(_) => {}
            // It went with a change of the definition that the controller has yet to see, as it may rest.
            None => {
                if let Some(report) = report.as_mut().filter(|report| report.stage == Stage::Running) {
                    report.end(&subscription.value, None, subscription.changed_at);
                }
            }
        }
        report.ok_or_else(|| {
            Refusal::new(Code::NotFound, format!("the subscription {name} has had no rollout")).into()
        })
    }

    /// Gives a candidate its share of a subscription, in the place of any other candidate.
    ///
    /// # Errors
    /// What the catalog and the plugin runtime refuse.
    pub async fn start_rollout(&self, name: &Name, rollout: Rollout) -> Result<Entry<Subscription>, Error> {
        let present = self.get::<Subscription>(name)?.value;
        let wanted = Subscription { rollout: Some(rollout.clone()), ..(*present).clone() };
        wanted.check()?;
        self.try_out(name, &wanted).await?;
        self.vet_new(name, &wanted).await?;
        let board = self.board(name)?;
        self.shipping(name, &board)
            .update(|present| Ok(Subscription { rollout: Some(rollout), ..present.clone() }))
            .await
    }

    /// Has the candidate take over, or go.
    ///
    /// # Errors
    /// [`Code::NotFound`] without a rollout.
    pub async fn end_rollout(&self, name: &Name, promote: bool) -> Result<Entry<Subscription>, Error> {
        let board = self.board(name)?;
        self.shipping(name, &board).end_rollout(promote, None).await
    }

    /// Says whose doing the next change of the version is.
    pub(crate) fn announce(&self, name: &Name, value: &Subscription) {
        if let (Ok(board), Some(version)) = (self.board(name), value.version) {
            let (cause, by, why) = (Cause::Put, self.author().cloned(), None);
            board.versions.announce(Announced { version, cause, by, why });
        }
    }

    fn shipping<'a>(&'a self, name: &'a Name, board: &'a Board) -> Shipping<'a> {
        Shipping { name, parts: self.parts(), board, author: self.author() }
    }

    fn board(&self, name: &Name) -> Result<Arc<Board>, Error> {
        self.get::<Subscription>(name)?;
        let board = self.boards().read().get(name).cloned();
        Ok(board.unwrap_or_else(|| Arc::new(Board::new(&*self.parts().clock))))
    }
}
