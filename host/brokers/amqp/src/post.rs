//! Where letters are handed in, and what their senders wait for.
//!
//! Called by the transport's `send` on one side and by the publishing lanes on the other.

use std::{collections::HashMap, sync::Arc};

use brolly_core::BrokerError;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use crate::{error::Error, flight::Letter};

/// Sends that wait for a lane; further ones wait to wait.
const WAITING: usize = 1_024;
/// Messages of a lane that are sent and not confirmed.
pub(crate) const WINDOW: usize = 1_000;

pub(crate) type Verdict = Result<(), BrokerError>;

/// Where letters are handed in.
pub(crate) struct Post {
    sender: mpsc::Sender<Vec<Item>>,
    receiver: tokio::sync::Mutex<mpsc::Receiver<Vec<Item>>>,
    pub late: Late,
}

/// The destinations that have letters which are late: further ones travel apart from all others.
#[derive(Clone, Default)]
pub(crate) struct Late(Arc<Mutex<HashMap<String, usize>>>);

impl Late {
    pub(crate) fn has(&self, letter: &Letter) -> bool {
        let late = self.0.lock();
        !late.is_empty() && late.contains_key(destination(letter))
    }
}

/// That letters to these destinations are late, for as long as it lives.
pub(crate) struct Lateness {
    late: Late,
    destinations: Vec<String>,
}

impl Lateness {
    pub(crate) fn begin(late: &Late, destinations: Vec<String>) -> Self {
        let mut counts = late.0.lock();
        for destination in &destinations {
            *counts.entry(destination.clone()).or_default() += 1;
        }
        drop(counts);
        Self { late: late.clone(), destinations }
    }
}

impl Drop for Lateness {
    fn drop(&mut self) {
        let mut counts = self.late.0.lock();
        for destination in &self.destinations {
            if let Some(count) = counts.get_mut(destination) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(destination);
                }
            }
        }
    }
}

/// The exchange, or the queue behind the default one.
pub(crate) fn destination(letter: &Letter) -> &str {
    match letter.exchange.as_str() {
        "" => letter.routing_key.as_str(),
        exchange => exchange,
    }
}

/// A letter, and where its sender is answered.
pub(crate) struct Item {
    pub letter: Letter,
    pub ticket: Ticket,
}

/// A place in the answer to a send.
pub(crate) struct Ticket {
    answer: Arc<Mutex<Answer>>,
    number: usize,
}

struct Answer {
    verdicts: Vec<Option<Verdict>>,
    open: usize,
    done: Option<oneshot::Sender<Vec<Verdict>>>,
}

impl Ticket {
    /// Answers for its letter.
    pub(crate) fn settle(self, verdict: Verdict) {
        let mut answer = self.answer.lock();
        if let Some(slot) = answer.verdicts.get_mut(self.number)
            && slot.replace(verdict).is_none()
        {
            answer.open -= 1;
        }
        if answer.open == 0
            && let Some(done) = answer.done.take()
        {
            let verdicts = std::mem::take(&mut answer.verdicts).into_iter().flatten().collect();
            // The sender may have gone; what it sent is sent.
            let _ = done.send(verdicts);
        }
    }
}

impl Post {
    pub(crate) fn new() -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        Self { sender, receiver: tokio::sync::Mutex::new(receiver), late: Late::default() }
    }

    /// Sends letters, and answers with a verdict for each.
    pub(crate) async fn send(&self, letters: Vec<Letter>) -> Vec<Verdict> {
        if letters.is_empty() {
            return Vec::new();
        }
        let count = letters.len();
        let (done, verdicts) = oneshot::channel();
        let answer = Answer { verdicts: (0..count).map(|_| None).collect(), open: count, done: Some(done) };
        let answer = Arc::new(Mutex::new(answer));
        let items = letters.into_iter().enumerate();
        let items =
            items.map(|(number, letter)| Item { letter, ticket: Ticket { answer: answer.clone(), number } });
        let sent = self.sender.send(items.collect()).await;
        drop(answer);
        let closed = || (0..count).map(|_| Err(closed_early())).collect();
        if sent.is_err() {
            return closed();
        }
        verdicts.await.unwrap_or_else(|_| closed())
    }

    /// Takes what waits, up to a window.
    pub(crate) async fn take(&self, next: &mut Vec<Item>) {
        let mut receiver = if next.is_empty() {
            let mut receiver = self.receiver.lock().await;
            match receiver.recv().await {
                Some(items) => next.extend(items),
                None => std::future::pending().await,
            }
            receiver
        } else {
            // A lane that has nothing to do may be waiting with it in hand.
            let Ok(receiver) = self.receiver.try_lock() else { return };
            receiver
        };
        while next.len() < WINDOW
            && let Ok(items) = receiver.try_recv()
        {
            next.extend(items);
        }
    }
}

fn closed_early() -> BrokerError {
    Error::NotConnected("it was closed".to_owned()).failed("publish to", "RabbitMQ")
}
