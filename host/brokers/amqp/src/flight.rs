//! Publishes that are under way on one channel, and what became of each.
//!
//! Called by the publishing lanes. A flight has its channel for itself: lapin numbers messages in the
//! order in which their publishes are first polled, and on a channel of several tasks that need not be
//! the order in which they are sent.
//!
//! A returned message comes with *some* confirmation: lapin hands it to whichever it completes next,
//! and several that the server confirms at once are completed in any order. So returned messages are
//! told by what they are, and a confirmation counts only when no returned message can be on its way to
//! another one. That is so when all are confirmed, and also when of all messages that were returned
//! none is unconfirmed: let O be the messages that are confirmed and whose return nobody has, and D
//! those whose return somebody has and that are not confirmed. Each confirmation takes a return with it
//! if one waits, so O never has more messages than D, and with D empty O is.

use std::{
    collections::HashSet,
    future::{Future, poll_fn},
    hash::Hash,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use lapin::{
    BasicProperties, Channel, Confirmation, PublisherConfirm,
    message::BasicReturnMessage,
    options::BasicPublishOptions,
    types::{AMQPValue, ShortString},
};
use tokio::time::Instant;

use crate::{encode::header, error::Error};

/// How long returned messages may take from lapin's thread to here.
const MOMENT: Duration = Duration::from_millis(50);

/// A message on its way to the server.
#[derive(Clone, Debug)]
pub(crate) struct Letter {
    pub exchange: ShortString,
    pub routing_key: ShortString,
    pub properties: BasicProperties,
    pub body: Bytes,
    /// Whether it is an error if no queue gets it.
    pub must_arrive: bool,
}

/// What became of a letter.
#[derive(Clone, Debug)]
pub(crate) enum Fate {
    /// The server has it.
    Confirmed,
    /// The server has it for nobody: no queue gets it.
    Returned,
    /// The server has no room for it.
    Nacked,
    /// It was not sent, or nobody knows.
    Broken(Error),
}

enum Slot {
    Sending(Pin<Box<dyn Future<Output = lapin::Result<PublisherConfirm>> + Send>>),
    Confirming(PublisherConfirm),
    Done(Fate),
}

/// Letters on their way.
pub(crate) struct Flight {
    channel: Channel,
    letters: Arc<[Letter]>,
    slots: Vec<Slot>,
    returned: HashSet<Mark>,
    /// The first that is not known to have landed.
    cursor: usize,
}

/// By what a letter is known when it comes back.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Mark {
    exchange: String,
    routing_key: String,
    id: String,
}

impl Mark {
    fn new(exchange: &ShortString, routing_key: &ShortString, properties: &BasicProperties) -> Self {
        let long = || match properties.headers().as_ref()?.inner().get(header::ID)? {
            AMQPValue::LongString(id) => Some(id.to_string()),
            _ => None,
        };
        let id = properties.message_id().as_ref().map(ToString::to_string).or_else(long);
        Self {
            exchange: exchange.to_string(),
            routing_key: routing_key.to_string(),
            id: id.unwrap_or_default(),
        }
    }

    fn of(letter: &Letter) -> Self {
        Self::new(&letter.exchange, &letter.routing_key, &letter.properties)
    }
}

impl Flight {
    /// Hands all letters to lapin, in their order.
    pub(crate) async fn launch(channel: Channel, letters: Arc<[Letter]>) -> Self {
        let slots = (0..letters.len()).map(|number| {
            let (channel, letters) = (channel.clone(), letters.clone());
            Slot::Sending(Box::pin(async move {
                let Some(letter) = letters.get(number) else {
                    return Err(lapin::ErrorKind::FutureCompleted.into());
                };
                let options = BasicPublishOptions { mandatory: true, immediate: false };
                let (exchange, key) = (letter.exchange.clone(), letter.routing_key.clone());
                channel.basic_publish(exchange, key, options, &letter.body, letter.properties.clone()).await
            }))
        });
        let mut flight =
            Self { slots: slots.collect(), channel, letters, returned: HashSet::new(), cursor: 0 };
        flight.sweep().await;
        flight
    }

    pub(crate) fn letters(&self) -> &[Letter] {
        &self.letters
    }

    /// The channel, if it can carry another flight.
    pub(crate) fn channel(&self) -> Option<Channel> {
        self.channel.status().connected().then(|| self.channel.clone())
    }

    /// Waits until all have landed, or until the deadline. Answers whether all have.
    pub(crate) async fn land(&mut self, deadline: Instant) -> bool {
        let landing = poll_fn(|context| {
            while self.cursor < self.slots.len() {
                if self.poll_slot(self.cursor, context).is_pending() {
                    return Poll::Pending;
                }
                self.cursor += 1;
            }
            Poll::Ready(())
        });
        tokio::time::timeout_at(deadline, landing).await.is_ok()
    }

    fn poll_slot(&mut self, number: usize, context: &mut Context<'_>) -> Poll<()> {
        let Some(slot) = self.slots.get_mut(number) else { return Poll::Ready(()) };
        loop {
            *slot = match slot {
                Slot::Done(_) => return Poll::Ready(()),
                Slot::Sending(sending) => match sending.as_mut().poll(context) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(confirm)) => Slot::Confirming(confirm),
                    Poll::Ready(Err(error)) => Slot::Done(Fate::Broken(error.into())),
                },
                Slot::Confirming(confirm) => match Pin::new(confirm).poll(context) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Err(error)) => Slot::Done(Fate::Broken(error.into())),
                    Poll::Ready(Ok(confirmation)) => {
                        let (fate, back) = match confirmation {
                            Confirmation::Ack(back) => (Fate::Confirmed, back),
                            Confirmation::Nack(back) => (Fate::Nacked, back),
                            Confirmation::NotRequested => {
                                (Fate::Broken(Error::Client("the channel confirms nothing".to_owned())), None)
                            }
                        };
                        self.returned.extend(back.map(|back: BasicReturnMessage| {
                            Mark::new(
                                &back.delivery.exchange,
                                &back.delivery.routing_key,
                                &back.delivery.properties,
                            )
                        }));
                        Slot::Done(fate)
                    }
                },
            };
        }
    }

    /// Looks once at each that has not landed.
    async fn sweep(&mut self) {
        poll_fn(|context| {
            for number in self.cursor..self.slots.len() {
                let _ = self.poll_slot(number, context);
            }
            Poll::Ready(())
        })
        .await;
    }

    fn landed(&self) -> Vec<bool> {
        self.slots.iter().map(|slot| matches!(slot, Slot::Done(_))).collect()
    }

    /// What became of each, as far as that is certain. Called after a landing, complete or not.
    pub(crate) async fn fates(&mut self, complete: bool) -> Vec<Option<Fate>> {
        let landed = self.landed();
        if !complete {
            tokio::time::sleep(MOMENT).await;
            self.sweep().await;
        }
        let confirmed = |slot: &Slot| matches!(slot, Slot::Done(Fate::Confirmed | Fate::Nacked));
        let letters = || self.slots.iter().zip(self.letters.iter()).zip(&landed);
        let open: HashSet<Mark> = letters()
            .filter(|((slot, _), landed)| !(**landed && confirmed(slot)))
            .map(|((_, letter), _)| Mark::of(letter))
            .collect();
        let certain = is_certain(&self.returned, &open);
        letters()
            .map(|((slot, letter), landed)| match slot {
                Slot::Done(Fate::Broken(error)) if *landed => Some(Fate::Broken(error.clone())),
                Slot::Done(_) if *landed && !certain => complete.then(|| {
                    Fate::Broken(Error::Client("the channel broke before it was known who got it".to_owned()))
                }),
                Slot::Done(Fate::Confirmed) if *landed && self.returned.contains(&Mark::of(letter)) => {
                    Some(Fate::Returned)
                }
                Slot::Done(fate) if *landed => Some(fate.clone()),
                Slot::Done(_) | Slot::Sending(_) | Slot::Confirming(_) => None,
            })
            .collect()
    }
}

/// Whether every confirmed message's return has come that will: with the return of an unconfirmed one
/// here, another's may be missing. See the head of this file.
fn is_certain<M: Eq + Hash>(returned: &HashSet<M>, open: &HashSet<M>) -> bool {
    returned.is_disjoint(open)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    /// lapin: returns wait in line, and each confirmation takes the first of them with it.
    #[derive(Default)]
    struct Lapin {
        waiting: VecDeque<usize>,
        confirmed: HashSet<usize>,
        returned: HashSet<usize>,
    }

    impl Lapin {
        fn confirm(&mut self, message: usize) {
            self.confirmed.insert(message);
            self.returned.extend(self.waiting.pop_front());
        }
    }

    proptest! {
        #[test]
        fn a_message_that_came_back_is_never_taken_for_one_that_did_not(
            unroutable in prop::collection::vec(any::<bool>(), 1..12),
            order in prop::collection::vec(any::<prop::sample::Index>(), 24),
            first in 0_usize..25,
            later in 0_usize..3,
        ) {
            // The server returns a message before it confirms it, and confirms in any order.
            let mut events = Vec::new();
            let mut left: Vec<(usize, bool)> = unroutable.iter().copied().enumerate().collect();
            for index in &order {
                if left.is_empty() {
                    break;
                }
                let number = index.index(left.len());
                let (message, returns) = left[number];
                if returns {
                    events.push((message, true));
                    left[number] = (message, false);
                } else {
                    events.push((message, false));
                    left.remove(number);
                }
            }
            // It is looked at twice, at any moment and soon after.
            let first = first.min(events.len());
            let second = (first + later).min(events.len());
            let mut lapin = Lapin::default();
            let mut landed = HashSet::new();
            for (number, (message, returns)) in events.iter().take(second).enumerate() {
                if number == first {
                    landed = lapin.confirmed.clone();
                }
                if *returns { lapin.waiting.push_back(*message) } else { lapin.confirm(*message) }
            }
            if first == second {
                landed = lapin.confirmed.clone();
            }
            let open: HashSet<usize> = (0..unroutable.len()).filter(|message| !landed.contains(message)).collect();
            if is_certain(&lapin.returned, &open) {
                for message in landed {
                    prop_assert_eq!(lapin.returned.contains(&message), unroutable[message]);
                }
            }
            // In the end there is no doubt.
            if lapin.confirmed.len() == unroutable.len() {
                let returned: HashSet<usize> = (0..unroutable.len()).filter(|message| unroutable[*message]).collect();
                prop_assert_eq!(lapin.returned, returned);
            }
        }
    }
}
