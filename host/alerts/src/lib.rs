//! Warns the owners of queues: which rules are broken, since when, and whom that was told to, by which
//! channels.
//!
//! Called by dispatch, which measures queues and hands in what it saw ([`Alerts::observe`]), keeps
//! [`Alerts::run`] running, and is asked by the admin. Knows the store and the outside world of mail servers
//! and HTTP interfaces; knows no broker and no catalog.
//!
//! * `alert.rs`: the life of one alert, pure; `quiet.rs`, `notice.rs`: when people rest, what they are told;
//! * `book.rs`: the alerts that are kept; what is told is durable before it is sent;
//! * `sender.rs`: gets notices through, however long that takes; `channels/`: a file for each kind.

mod alert;
mod book;
mod channels;
mod error;
mod notice;
mod quiet;
mod sender;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use brolly_core::{AlertRule, Channel, Clock, Code, Name, Owner, Queue, Refusal, Timestamp};
use brolly_store::Store;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use crate::{book::Book, channels::Sender, notice::Letter, quiet::Hours};

pub use alert::{Acknowledged, Alert, Status};
pub use error::{Error, Failure};
pub use notice::{Notice, Occasion};

/// A channel that can be used.
#[derive(Clone)]
struct Open {
    definition: Arc<Channel>,
    /// Why it cannot be used, if so.
    sender: Result<Arc<Sender>, Failure>,
}

/// The alerts of one data directory.
pub struct Alerts {
    store: Store,
    clock: Arc<dyn Clock>,
    /// Tells the letters of several hosts apart.
    host: String,
    book: Arc<Mutex<Book>>,
    channels: RwLock<BTreeMap<Name, Open>>,
    http: reqwest::Client,
    /// There may be something to send.
    work: Notify,
}

/// What was seen of one queue.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The queue.
    pub queue: Name,
    /// Its definition.
    pub definition: Arc<Queue>,
    /// For each of its rules, in their order: the value; none if it cannot be measured now.
    pub values: Vec<Option<u64>>,
}

/// How a channel is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelHealth {
    /// Whether the latest notice got through; none if none was sent since the host started.
    pub works: Option<bool>,
    /// Since when.
    pub since: Option<Timestamp>,
    /// Why it does not.
    pub error: Option<String>,
    /// Notices that are still to be sent.
    pub waiting: usize,
}

/// Which alerts are wanted; everything given must hold.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Alerts that stand so.
    pub status: Option<Status>,
    /// Alerts of this queue.
    pub queue: Option<Name>,
}

impl Wanted {
    fn want(&self, alert: &Alert) -> bool {
        self.status.is_none_or(|status| status == alert.status)
            && self.queue.as_ref().is_none_or(|queue| *queue == alert.queue)
    }
}

/// Checks what core cannot: quiet hours, and that the owners can be told by mail.
///
/// # Errors
/// [`Code::InvalidDefinition`], naming the field.
pub fn check_queue(queue: &Queue) -> Result<(), Refusal> {
    for (number, rule) in queue.alerts.iter().enumerate() {
        if let Some(quiet) = &rule.quiet {
            Hours::new(quiet).map_err(|refusal| {
                Refusal::new(refusal.code, format!("alerts[{number}].{}", refusal.detail))
            })?;
        }
    }
    for (number, owner) in queue.owners.iter().enumerate() {
        if let Owner::Contact(contact) = owner
            && let Some(email) = &contact.email
        {
            channels::check_address(email).map_err(|why| {
                let detail =
                    format!("owners[{number}].email is {email:?}, which is no e-mail address: {why}");
                Refusal::new(Code::InvalidDefinition, detail)
            })?;
        }
    }
    Ok(())
}

impl Alerts {
    /// Alerts that are over and kept; an older one goes with each new one.
    pub const KEPT: u64 = 10_000;

    /// Opens the alerts of a store, for the host of this name.
    ///
    /// # Errors
    /// When the store cannot be read, a row is not understood, or no HTTP client can be made.
    pub fn open(store: Store, host: &str, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        let book = Book::read(&store)?;
        Ok(Self {
            store,
            clock,
            host: host.to_owned(),
            book: Arc::new(Mutex::new(book)),
            channels: RwLock::default(),
            http: channels::http_client()?,
            work: Notify::new(),
        })
    }

    /// Checks that a channel can be used, as far as that can be told without using it.
    ///
    /// # Errors
    /// [`Code::InvalidDefinition`], naming the field.
    pub fn check_channel(&self, channel: &Channel) -> Result<(), Refusal> {
        Sender::new(channel, &self.http).map(drop)
    }

    /// Takes over the channels that are wanted.
    pub fn follow<'a>(&self, channels: impl Iterator<Item = (&'a Name, &'a Arc<Channel>)>) {
        let mut present = self.channels.write();
        let next = channels.map(|(name, definition)| {
            let kept = present.get(name).filter(|open| open.definition == *definition).cloned();
            let open = kept.unwrap_or_else(|| Open {
                definition: definition.clone(),
                sender: Sender::new(definition, &self.http).map(Arc::new).map_err(Failure::from),
            });
            (name.clone(), open)
        });
        *present = next.collect();
        drop(present);
        self.work.notify_one();
    }

    /// Takes in what was seen of every queue that has rules; an alert of any other queue or rule ends.
    /// Comes back when what follows from it is durable.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn observe(&self, seen: &[Seen]) -> Result<(), Error> {
        let now = self.clock.now();
        let durable = {
            let mut book = self.book.lock();
            let mut changed = book.end_missing(seen, now);
            for queue in seen {
                for (rule, value) in queue.definition.alerts.iter().zip(&queue.values) {
                    let quiet = is_quiet(rule, now);
                    let look = alert::Look { value: *value, quiet, now };
                    let recipients = || self.recipients(rule, &queue.definition.owners);
                    changed.extend(book.observe(
                        &queue.queue,
                        rule,
                        &queue.definition.owners,
                        look,
                        recipients,
                    ));
                }
            }
            changed.extend(book.relieve(seen, now, |alert| self.recipients_of(alert)));
            book.write(&self.book, &self.store, &changed)?
        };
        if let Some(durable) = durable {
            durable.await.map_err(|_| book::gone(&self.store))?;
            self.work.notify_one();
        }
        Ok(())
    }

    fn recipients(&self, rule: &AlertRule, owners: &[Owner]) -> Vec<(Name, String)> {
        self.people(&rule.channels, owners)
    }

    fn recipients_of(&self, alert: &Alert) -> Vec<(Name, String)> {
        self.people(&alert.channels, &alert.owners)
    }

    fn people(&self, names: &[Name], owners: &[Owner]) -> Vec<(Name, String)> {
        let channels = self.channels.read();
        let known = names.iter().filter_map(|name| Some((name, channels.get(name)?)));
        let all = known.flat_map(|(name, open)| {
            open.definition.recipients(owners).into_iter().map(|to| (name.clone(), to))
        });
        all.collect()
    }

    /// Alerts, the latest first and before `before`; and where to go on, if there are more. Blocks.
    ///
    /// # Errors
    /// When the store cannot be read, or a row is not understood.
    pub fn list(
        &self,
        wanted: &Wanted,
        before: Option<u64>,
        limit: usize,
    ) -> Result<(Vec<Alert>, Option<u64>), Error> {
        let undone = self.book.lock().undone().clone();
        book::list(&undone, &self.store, wanted, before, limit)
    }

    /// One alert. Blocks.
    ///
    /// # Errors
    /// When the store cannot be read, or a row is not understood.
    pub fn get(&self, number: u64) -> Result<Option<Alert>, Error> {
        let undone = self.book.lock().undone().clone();
        book::get(&undone, &self.store, number)
    }

    /// The alerts that fire now, by queue.
    #[must_use]
    pub fn firing(&self) -> Vec<Alert> {
        let book = self.book.lock();
        book.open().filter(|alert| alert.status == Status::Firing).cloned().collect()
    }

    /// Notes that somebody has seen an alert: it is not repeated any more.
    ///
    /// # Errors
    /// [`Code::NotFound`]; when the store fails.
    pub async fn acknowledge(&self, number: u64, by: Option<Name>) -> Result<Alert, Error> {
        let (alert, durable) = {
            let mut book = self.book.lock();
            let now = self.clock.now();
            let Some(alert) = book.acknowledge(number, by, now) else {
                return Err(not_open(number).into());
            };
            (alert, book.write(&self.book, &self.store, &[number])?)
        };
        if let Some(durable) = durable {
            durable.await.map_err(|_| book::gone(&self.store))?;
        }
        Ok(alert)
    }

    /// Sends a test by a channel, and answers when it got through.
    ///
    /// # Errors
    /// [`Code::NotFound`] for a channel that is not there.
    pub async fn test(&self, channel: &Name, to: &str) -> Result<Result<(), Failure>, Error> {
        let open = self.channels.read().get(channel).cloned();
        let Some(open) = open else {
            return Err(Refusal::not_found("channel", channel.as_str()).into());
        };
        let letter = Letter::test(&self.host, channel, self.clock.now());
        Ok(match open.sender {
            Ok(sender) => sender.send(to, &letter).await,
            Err(failure) => Err(failure),
        })
    }

    /// How a channel is doing.
    #[must_use]
    pub fn health(&self, channel: &Name) -> ChannelHealth {
        self.book.lock().health(channel)
    }
}

fn is_quiet(rule: &AlertRule, now: Timestamp) -> bool {
    // What is not understood was checked when it was saved; then better too loud than too quiet.
    rule.quiet.as_ref().and_then(|quiet| Hours::new(quiet).ok()).is_some_and(|hours| hours.contain(now))
}

fn not_open(number: u64) -> Refusal {
    Refusal::new(Code::NotFound, format!("there is no open alert {number}; GET /api/v1/alerts lists them"))
}
