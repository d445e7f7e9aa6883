//! Runs the feeds that are wanted: what is heard is published to its topic, and what was missed is
//! remembered. Called by the supervisor.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use brolly_core::{Clock, Code, Feed, Gap, Listener, Name, NewMessage, Seat, Standing, Timestamp};
use brolly_ledger::{Heard, Ledger};
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{Error, Handle, TraceContext};

/// How often it is remembered that a feed is heard: what a crash adds to the gap.
const REMEMBER: Duration = Duration::from_secs(5);
/// How long a message waits that its topic does not take at the moment.
const PAUSE: Duration = Duration::from_millis(200);
/// How long what was heard may take to become durable when the feed is to stop.
const DRAIN: Duration = Duration::from_secs(10);

/// How a feed stands, and what was missed.
#[derive(Clone, Debug)]
pub struct FeedStatus {
    /// Whether it is heard.
    pub standing: Standing,
    /// Since when it stands so.
    pub since: Timestamp,
    /// What is remembered.
    pub heard: Heard,
}

/// The feeds that run.
#[derive(Default)]
pub(crate) struct Feeds {
    running: HashMap<Name, Running>,
    tasks: JoinSet<()>,
}

struct Running {
    feed: Feed,
    stop: CancellationToken,
}

/// The ear of one topic.
pub(crate) struct Ear {
    topic: Name,
    handle: Handle,
    status: Mutex<FeedStatus>,
    remembered: Mutex<Timestamp>,
    /// When each message came that is not durable yet, by its number.
    waiting: Mutex<BTreeMap<u64, Timestamp>>,
}

/// An ear for each topic that has a feed.
pub(crate) type Ears = Mutex<BTreeMap<Name, Arc<Ear>>>;

impl Feeds {
    /// Starts and stops the difference to what is wanted.
    pub(crate) fn follow(&mut self, handle: &Handle) {
        let snapshot = handle.catalog().snapshot();
        let wanted = |name: &Name| snapshot.topics.get(name).and_then(|entry| entry.value.feed.clone());
        self.running.retain(|topic, running| {
            let stays = wanted(topic).as_ref() == Some(&running.feed);
            if !stays {
                running.stop.cancel();
                handle.ears().lock().remove(topic);
            }
            stays
        });
        for (topic, entry) in snapshot.topics.iter() {
            let Some(feed) = entry.value.feed.clone().filter(|_| !self.running.contains_key(topic)) else {
                continue;
            };
            let stop = CancellationToken::new();
            self.tasks.spawn(run(handle.clone(), topic.clone(), feed.clone(), stop.clone()));
            self.running.insert(topic.clone(), Running { feed, stop });
        }
    }

    /// Stops all, and waits until what they have heard is durable.
    pub(crate) async fn stop(mut self) {
        for running in self.running.values() {
            running.stop.cancel();
        }
        while self.tasks.join_next().await.is_some() {}
    }
}

async fn run(handle: Handle, topic: Name, feed: Feed, stop: CancellationToken) {
    let ear = match Ear::new(&handle, &topic) {
        Ok(ear) => Arc::new(ear),
        Err(error) => return tracing::error!(%topic, %error, "what is remembered of a feed cannot be read"),
    };
    handle.ears().lock().insert(topic.clone(), ear.clone());
    let group = feed.group.clone().unwrap_or_else(|| topic.to_string());
    while !stop.is_cancelled() {
        let heard = ear.status.lock().heard.at;
        let error = match handle.parts().brokers.get(&feed.broker) {
            Ok(broker) => {
                let told = stop.clone().cancelled_owned();
                let seat = Seat { group: &group, host: ear.ledger().host(), heard };
                let listening = broker.listen(&feed, seat, ear.clone(), Box::pin(told));
                tokio::select! {
                    listened = listening => listened.err().map(Error::from),
                    () = overdue(&stop) => {
                        ear.drop_waiting();
                        None
                    }
                }
            }
            Err(error) => Some(error),
        };
        if let Some(error) = error {
            ear.stands(Standing::Lost(error.to_string()));
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
            () = stop.cancelled() => {}
        }
    }
    ear.remember();
}

async fn overdue(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(DRAIN).await;
}

impl Ear {
    fn new(handle: &Handle, topic: &Name) -> Result<Self, Error> {
        let (since, heard) = (handle.parts().clock.now(), handle.parts().ledger.heard(topic)?);
        let standing = Standing::Lost("it is not connected yet".to_owned());
        Ok(Self {
            topic: topic.clone(),
            handle: handle.clone(),
            status: Mutex::new(FeedStatus { standing, since, heard }),
            remembered: Mutex::new(Timestamp(0)),
            waiting: Mutex::default(),
        })
    }

    fn clock(&self) -> &dyn Clock {
        &*self.handle.parts().clock
    }

    fn ledger(&self) -> &Ledger {
        &self.handle.parts().ledger
    }

    /// Whether something waits, and since when: a crash would lose it, so nothing after it counts as heard.
    fn oldest(&self) -> Option<Timestamp> {
        self.waiting.lock().values().next().copied()
    }

    /// What could not be made durable before the end is a gap.
    fn drop_waiting(&self) {
        if let Some(from) = self.oldest() {
            let reason = "what was heard could not be written before the feed was stopped".to_owned();
            self.missed(Gap { from, to: self.clock().now(), reason });
        }
    }

    async fn keep(&self, message: NewMessage) {
        loop {
            match self.handle.publish(&self.topic, vec![message.clone()], &TraceContext::new()).await {
                Ok(_) => return,
                Err(Error::Refused(refusal))
                    if matches!(refusal.code, Code::TooLarge | Code::InvalidMessage) =>
                {
                    let now = self.clock().now();
                    let reason = format!("a message of the channel {} was refused: {refusal}", message.key);
                    return self.missed(Gap { from: now, to: now, reason });
                }
                Err(error) => {
                    tracing::debug!(topic = %self.topic, %error, "what was heard waits");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn remember(&self) {
        let heard = self.status.lock().heard.clone();
        *self.remembered.lock() = self.clock().now();
        if let Err(error) = self.ledger().remember(&self.topic, &heard) {
            tracing::error!(topic = %self.topic, %error, "what is remembered of a feed cannot be written");
        }
    }
}

#[async_trait]
impl Listener for Ear {
    /// Tries for as long as it takes: nobody else has the message. What breaks a limit of messages can
    /// never be kept, and is a gap.
    async fn hear(&self, message: NewMessage) {
        let number = {
            let mut waiting = self.waiting.lock();
            let number = waiting.keys().next_back().map_or(0, |last| last + 1);
            waiting.insert(number, self.clock().now());
            number
        };
        self.keep(message).await;
        self.waiting.lock().remove(&number);
    }

    fn stands(&self, standing: Standing) {
        let now = self.clock().now();
        let mut status = self.status.lock();
        if standing == Standing::Listening {
            status.heard.at = Some(self.oldest().unwrap_or(now));
        }
        let changed = status.standing != standing;
        if changed {
            status.since = now;
            status.standing = standing;
        }
        drop(status);
        let stale = now.since(*self.remembered.lock()) >= REMEMBER;
        if changed || stale {
            self.remember();
        }
    }

    fn missed(&self, gap: Gap) {
        metrics::counter!("brolly_feed_gaps_total", "topic" => self.topic.to_string()).increment(1);
        let (from, to) = (gap.from.0, gap.to.0);
        tracing::warn!(topic = %self.topic, from, to, reason = gap.reason, "messages of a feed may have been missed");
        self.status.lock().heard.add(gap);
        self.remember();
    }
}

impl Handle {
    /// How the feed of a topic stands; none if it has none. One that has not begun, as in the first moment after
    /// a start, is not connected and has missed what is remembered.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn feed(&self, topic: &Name) -> Result<Option<FeedStatus>, Error> {
        if self.catalog().snapshot().topics.get(topic).is_none_or(|entry| entry.value.feed.is_none()) {
            return Ok(None);
        }
        let listening = self.ears().lock().get(topic).cloned();
        let ear = listening.map_or_else(|| Ear::new(self, topic).map(Arc::new), Ok)?;
        let status = ear.status.lock().clone();
        Ok(Some(status))
    }
}
