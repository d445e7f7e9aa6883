//! The dead-letter desk: look at dead letters, send them back, delete them.

use std::{collections::HashSet, num::NonZeroU32, time::Duration};

use brolly_catalog::Action;
use brolly_core::{BrokerError, MessageId, Name, Refusal, Subscription};
use brolly_ledger::{DeadLetter, Left, Reason};
use serde_json::{Value, json};

use crate::{Error, Handle, Page, handle::blocking};

/// Which dead letters are meant.
#[derive(Clone, Debug)]
pub enum Selection {
    /// Those of these messages.
    Ids(HashSet<MessageId>),
    /// All whose reason contains this text; the empty text means all.
    Reason(String),
    /// All whose reason has this shape ([`Reason::shape_of`]).
    Shape(String),
}

impl Selection {
    /// Ids that the audit log names; of more it has the number.
    const AUDITED_IDS: usize = 100;

    /// What the audit log keeps of it.
    fn audited(&self) -> Value {
        match self {
            Selection::Ids(ids) if ids.len() <= Self::AUDITED_IDS => json!({ "ids": ids }),
            Selection::Ids(ids) => json!({ "ids": ids.len() }),
            Selection::Reason(text) if text.is_empty() => json!({ "all": true }),
            Selection::Reason(text) => json!({ "reason": text }),
            Selection::Shape(shape) => json!({ "shape": shape }),
        }
    }
}

/// What became of the dead letters that were meant.
#[derive(Clone, Debug, Default)]
pub struct DeskResult {
    /// Replayed or deleted.
    pub done: Vec<MessageId>,
    /// Named, but no dead letters (any more).
    pub not_found: Vec<MessageId>,
    /// Not replayed, and still dead letters, each with the reason.
    pub refused: Vec<(MessageId, Refusal)>,
    /// Whether there are more than one call handles; call again.
    pub more: bool,
}

/// What is to become of dead letters.
#[derive(Clone, Copy)]
enum Fate {
    Replay,
    Discard,
}

impl Handle {
    /// The most dead letters that one call replays or deletes.
    pub const DESK_LIMIT: usize = 10_000;
    /// Dead letters that are changed in one go.
    const BATCH: usize = 500;

    /// Dead letters of a subscription's queue, the oldest message first.
    ///
    /// # Errors
    /// [`brolly_core::Code::NotFound`]; a failing store.
    pub async fn dead_letters(
        &self,
        subscription: &Name,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Page<DeadLetter>, Error> {
        let queue = self.get::<Subscription>(subscription)?.value.queue.clone();
        let ledger = self.parts().ledger.clone();
        let listed =
            blocking("listing dead letters", move || ledger.list_dead_letters(&queue, after, limit + 1))
                .await?;
        let mut items = listed?;
        let more = items.len() > limit;
        items.truncate(limit);
        let next = if more { items.last().map(|letter| letter.seq.to_string()) } else { None };
        Ok(Page { items, next })
    }

    /// Sends dead letters back to their queue, at most `per_second` if that is given.
    ///
    /// # Errors
    /// [`brolly_core::Code::NotFound`] for the subscription; a failing store or broker. What was
    /// replayed before stays replayed.
    pub async fn replay(
        &self,
        subscription: &Name,
        selection: Selection,
        per_second: Option<NonZeroU32>,
    ) -> Result<DeskResult, Error> {
        let queue = self.get::<Subscription>(subscription)?.value.queue.clone();
        let asked = selection.audited();
        let (letters, mut result) = self.select(&queue, selection).await?;
        self.note(Action::Replay, subscription, asked, letters.len()).await?;
        let batch =
            per_second.map_or(Self::BATCH, |rate| (rate.get() as usize).div_ceil(10).min(Self::BATCH));
        let pause = per_second.map(|rate| Duration::from_secs_f64(batch as f64 / f64::from(rate.get())));
        let mut pace = tokio::time::interval(pause.unwrap_or(Duration::from_millis(1)));
        for letters in letters.chunks(batch) {
            if pause.is_some() {
                pace.tick().await;
            }
            self.change(&queue, letters, Fate::Replay, &mut result).await?;
        }
        Ok(result)
    }

    /// Deletes dead letters; the history of their messages stays.
    ///
    /// # Errors
    /// As [`Handle::replay`].
    pub async fn discard(&self, subscription: &Name, selection: Selection) -> Result<DeskResult, Error> {
        let queue = self.get::<Subscription>(subscription)?.value.queue.clone();
        let asked = selection.audited();
        let (letters, mut result) = self.select(&queue, selection).await?;
        self.note(Action::Discard, subscription, asked, letters.len()).await?;
        for letters in letters.chunks(Self::BATCH) {
            self.change(&queue, letters, Fate::Discard, &mut result).await?;
        }
        Ok(result)
    }

    /// Before it is done: what is done stands in the audit log, whatever comes between.
    pub(crate) async fn note(
        &self,
        action: Action,
        subscription: &Name,
        mut asked: Value,
        dead_letters: usize,
    ) -> Result<(), Error> {
        if dead_letters == 0 {
            return Ok(());
        }
        if let Some(fields) = asked.as_object_mut() {
            fields.insert("dead_letters".to_owned(), dead_letters.into());
        }
        Ok(self.catalog().record(self.author(), action, "subscription", subscription, asked).await?)
    }

    /// Deletes all dead letters of a queue that is going away.
    pub(crate) async fn discard_all(&self, queue: &Name) -> Result<(), Error> {
        loop {
            let (letters, mut result) = self.select(queue, Selection::Reason(String::new())).await?;
            for letters in letters.chunks(Self::BATCH) {
                self.change(queue, letters, Fate::Discard, &mut result).await?;
            }
            if !result.more {
                return Ok(());
            }
        }
    }

    async fn select(
        &self,
        queue: &Name,
        selection: Selection,
    ) -> Result<(Vec<DeadLetter>, DeskResult), Error> {
        let (ledger, queue) = (self.parts().ledger.clone(), queue.clone());
        let selected = blocking("selecting dead letters", move || {
            ledger.select_dead_letters(&queue, |letter| matches(&selection, letter), Self::DESK_LIMIT).map(
                |(letters, more)| {
                    let found: HashSet<_> = letters.iter().map(|letter| &letter.message_id).collect();
                    let not_found = match &selection {
                        Selection::Ids(ids) => ids.iter().filter(|id| !found.contains(id)).cloned().collect(),
                        Selection::Reason(_) | Selection::Shape(_) => Vec::new(),
                    };
                    (letters, DeskResult { not_found, more, ..DeskResult::default() })
                },
            )
        });
        Ok(selected.await??)
    }

    async fn change(
        &self,
        queue: &Name,
        letters: &[DeadLetter],
        fate: Fate,
        result: &mut DeskResult,
    ) -> Result<(), Error> {
        let seqs: Vec<u64> = letters.iter().map(|letter| letter.seq).collect();
        let parts = self.parts();
        let Left { missing, mut refused } = match fate {
            Fate::Discard => parts.ledger.discard(queue, &seqs).await?,
            Fate::Replay => {
                let broker = parts.brokers.of_queue(&parts.catalog.snapshot(), queue)?;
                let stage = |seq, message: &_, commit: &mut _| match broker
                    .stage_replay(queue, seq, message, commit)
                {
                    Err(BrokerError::Refused(refusal)) => Ok(Err(refusal)),
                    staged => staged.map(Ok).map_err(Error::from),
                };
                parts.ledger.replay(queue, &seqs, stage).await?
            }
        };
        for letter in letters {
            let id = letter.message_id.clone();
            if missing.contains(&letter.seq) {
                result.not_found.push(id);
            } else if let Some(at) = refused.iter().position(|(seq, _)| *seq == letter.seq) {
                result.refused.push((id, refused.swap_remove(at).1));
            } else {
                result.done.push(id);
            }
        }
        Ok(())
    }
}

fn matches(selection: &Selection, letter: &DeadLetter) -> bool {
    match selection {
        Selection::Ids(ids) => ids.contains(&letter.message_id),
        Selection::Reason(text) => letter.reason.contains(text.as_str()),
        Selection::Shape(shape) => Reason::shape_of(&letter.reason) == *shape,
    }
}
