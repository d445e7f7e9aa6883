//! One consumption: takes from one queue, hands what it takes to the inlet, settles what the window
//! tells, gives signs of life. Started by the broker for each `consume`, in its task tracker.
//!
//! It has an identity of its own, the *worker*, under which the server knows what it holds, and two
//! connections: one that waits on the server for something to come, and one for all the rest. When
//! either breaks, it ends: the next consumption of this host, also of its next process, takes over what it
//! holds at once; those of others when the worker has been silent for the worker time-out. It never
//! settles under a worker that was taken for dead: the scripts refuse it.

use std::{future::pending, pin::Pin, sync::Arc, time::Duration};

use brolly_remote::{Inlet, Pushed, Received};
use parking_lot::Mutex;
use redis::Value;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::{
    Inner,
    connect::Link,
    entry, envelope,
    error::Error,
    exchange::{Data, Item, Taken, Want, flag, ms},
    hold::{Hold, Slot, What},
    plan::{Kind, Place},
    scripts,
};

/// Messages and bytes that are taken at once.
const BATCH: (usize, usize) = (256, 8 << 20);

/// How long what goes back is gathered, so that it goes back in its order.
const GATHER: Duration = Duration::from_millis(5);

/// How long a server that cannot be waited on is asked again.
const POLL: Duration = Duration::from_millis(100);

/// How long a consumption that ends may take to tell the server.
const FAREWELL: Duration = Duration::from_secs(3);

/// Values that move in one step when a worker is dead.
const REAP: usize = 1_000;

/// One consumption.
pub(crate) struct Consumer {
    pub inner: Arc<Inner>,
    pub place: Arc<Place>,
    pub worker: String,
    /// Earlier workers of this host, until all that they held is taken.
    pub before: Mutex<Vec<String>>,
    pub hold: Arc<Hold>,
    pub inlet: Inlet,
    /// For everything but waiting.
    pub link: Link,
    /// For waiting.
    pub bell: Link,
    pub began: Instant,
}

/// A question that is waiting on the server.
type Ring = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

impl Consumer {
    /// Runs until the tap is closed and everything is settled, the broker closes, or something fails.
    pub(crate) async fn run(self) {
        let ended = tokio::select! {
            ended = self.settle() => ended,
            error = self.fetch() => Err(error),
            error = self.live() => Err(error),
            error = self.watch_bell() => Err(error),
        };
        let queue = &self.place.queue;
        match ended {
            Ok(()) => {
                let parting = self.inner.part(&self.link, &self.place, &self.worker);
                match timeout(FAREWELL, parting).await.unwrap_or(Err(Error::Silent(FAREWELL))) {
                    Ok(()) => tracing::debug!(%queue, worker = self.worker, "stopped to consume"),
                    Err(error) => {
                        self.inner.orphan(queue, &self.worker);
                        tracing::warn!(%queue, %error, "a worker could not say that it leaves");
                    }
                }
            }
            Err(error) => {
                self.inner.orphan(queue, &self.worker);
                let held = self.hold.len();
                tracing::warn!(broker = %self.inner.name, %queue, %error, held, "a queue is not consumed any more");
                self.inlet.fail(error.to_string());
            }
        }
        for worker in self.before.lock().drain(..) {
            self.inner.orphan(queue, &worker);
        }
        self.hold.die();
    }

    /// Takes for as long as there is room. Ends with an error alone.
    async fn fetch(&self) -> Error {
        let mut ring = None;
        loop {
            if self.hold.is_closing() || self.inner.stop.is_cancelled() {
                return pending().await;
            }
            // A queue that has moved, or has no topic any more, is not this one.
            let here = self.inner.plan().places.get(&self.place.queue).cloned();
            if !here.is_some_and(|place| place.serves(&self.place)) {
                return Error::Disconnected("the definition of the queue has changed".to_owned());
            }
            let Some((messages, bytes, tag)) = self.hold.room() else {
                self.hold.take.notified().await;
                continue;
            };
            let taken = match self.take(messages.min(BATCH.0), bytes.min(BATCH.1), tag).await {
                Ok(taken) => taken,
                Err(error) => return error,
            };
            let some = !taken.items.is_empty();
            taken.items.into_iter().for_each(|item| self.hand_over(item));
            if !some && let Err(error) = self.wait(&mut ring, taken.next_due, taken.last).await {
                return error;
            }
        }
    }

    async fn take(&self, messages: usize, bytes: usize, tag: u64) -> Result<Taken, Error> {
        let timeout = self.inner.settings.worker_timeout;
        // Workers that lost their connection as this one did must have had the time to come back.
        let silence = (self.began.elapsed() > timeout).then_some(timeout);
        let before = self.before.lock().clone();
        let want = Want { worker: &self.worker, messages, bytes, tag, silence, heirs_to: &before };
        let (routine, call) = self.place.take(&want);
        let taken = self.place.taken(routine.run(&self.link, &call).await?)?;
        if taken.items.is_empty() {
            self.before.lock().clear();
        }
        if taken.vanished > 0 {
            let queue = self.place.queue.to_string();
            metrics::counter!("brolly_broker_vanished_total", "broker" => self.inner.name.to_string(), "queue" => queue)
                .increment(taken.vanished);
            tracing::error!(
                broker = %self.inner.name, queue = %self.place.queue, entries = taken.vanished,
                "somebody deleted entries of the stream before they were handled; they are lost"
            );
        }
        Ok(taken)
    }

    /// Waits until there may be something to take.
    async fn wait(
        &self,
        ring: &mut Option<Ring>,
        next_due: Option<Duration>,
        last: String,
    ) -> Result<(), Error> {
        let block = self.inner.settings.block;
        let mut until = Instant::now() + next_due.unwrap_or(block).min(block);
        if let Some(due) = self.hold.due() {
            until = until.min(due);
        }
        let waiting = ring.get_or_insert_with(|| self.ring(last));
        tokio::select! {
            rung = waiting => {
                *ring = None;
                rung
            }
            () = sleep_until(until) => Ok(()),
            () = self.hold.take.notified() => Ok(()),
        }
    }

    /// Waits on the server until something comes, or the block time is over. Moving the head of a list
    /// to where it is leaves the list as it is.
    fn ring(&self, last: String) -> Ring {
        let block = self.inner.settings.block;
        let (bell, key) = (self.bell.clone(), self.place.key.clone());
        let question = match self.place.kind {
            Kind::List => {
                let mut question = redis::cmd("BLMOVE");
                question.arg(&key).arg(&key).arg("LEFT").arg("LEFT").arg(block.as_secs_f64());
                question
            }
            Kind::Stream { .. } => {
                let mut question = redis::cmd("XREAD");
                question.arg("COUNT").arg(1).arg("BLOCK").arg(ms(block)).arg("STREAMS").arg(&key).arg(last);
                question
            }
        };
        Box::pin(async move {
            match bell.ask::<Value>(&question).await {
                Ok(_) => Ok(()),
                // A full server refuses to move anything but in a script.
                Err(Error::NoWrites(_)) => {
                    sleep(POLL).await;
                    Ok(())
                }
                Err(error) => Err(error),
            }
        })
    }

    fn hand_over(&self, item: Item) {
        let place = &*self.place;
        let (opened, entry) = match item.data {
            Data::Value(value) => (envelope::open(&value, item.size, &place.topic), None),
            Data::Entry { id, fields } => {
                (entry::open(&place.key, &place.topic, &id, fields, item.size), Some(id))
            }
        };
        let by_route = entry.is_some();
        self.hold.add(
            item.tag,
            Slot { bytes: item.size.min(envelope::LARGEST), entry, unfit: opened.unfit.is_some() },
        );
        let router = &self.inner.plan().router;
        if by_route && !router.routes_to(&opened.message.topic, &place.queue, &opened.message.key) {
            return self.hold.tell(item.tag, What::Ack);
        }
        let pushed = self.inlet.push(Received {
            tag: item.tag,
            message: opened.message,
            attempts: opened.attempts,
            by_route,
            derived: opened.derived,
            redelivered: item.again,
            unfit: opened.unfit,
        });
        match pushed {
            Pushed::Held => {}
            Pushed::Filtered => self.hold.tell(item.tag, What::Ack),
            Pushed::Closed => self.hold.tell(item.tag, What::Back),
        }
    }

    /// Settles what is told. Ends when there is nothing left to settle after the tap was closed, or
    /// with what was told when the broker closes.
    async fn settle(&self) -> Result<(), Error> {
        loop {
            let stopping = self.inner.stop.is_cancelled();
            if self.hold.gives_back() && !stopping {
                sleep(GATHER).await;
            }
            let verdicts = self.hold.verdicts();
            if verdicts.is_empty() {
                if stopping || (self.hold.is_closing() && self.hold.len() == 0) {
                    return Ok(());
                }
                tokio::select! {
                    () = self.hold.settle.notified() => {}
                    () = self.inner.stop.cancelled() => {}
                }
                continue;
            }
            let soonest = verdicts.iter().filter_map(|verdict| match verdict.what {
                What::Retry { delay, .. } => Some(delay),
                What::Ack | What::Back => None,
            });
            let soonest = soonest.min().map(|delay| Instant::now() + delay);
            let (routine, calls) = self.place.settle(&self.worker, verdicts);
            for (call, tags) in calls {
                let missing: usize = routine.run(&self.link, &call).await?;
                if missing > 0 {
                    tracing::debug!(queue = %self.place.queue, missing, "settled what this worker does not hold any more");
                }
                self.hold.settled(tags);
            }
            if let Some(due) = soonest {
                self.hold.note_due(due);
            }
        }
    }

    /// Tells the server that this worker lives.
    async fn live(&self) -> Error {
        let others = match &self.place.kind {
            Kind::Stream { group } if self.place.adopt => group.as_str(),
            Kind::Stream { .. } | Kind::List => "",
        };
        let mut call = scripts::LIVE.call(&[&self.place.base, &self.place.key]);
        call.arg(&self.worker).arg(others);
        loop {
            sleep(self.inner.settings.heartbeat()).await;
            if let Err(error) = scripts::LIVE.run::<Value>(&self.link, &call).await {
                return error;
            }
        }
    }

    /// Keeps the connection that waits from looking idle, and notices when it is dead.
    async fn watch_bell(&self) -> Error {
        loop {
            sleep(self.inner.settings.block).await;
            if let Err(error) = self.bell.ping().await {
                return error;
            }
        }
    }
}

impl Inner {
    /// Workers of this host that have ended without settling all they held: those of earlier processes, and
    /// of this one those that are known to have.
    pub(crate) async fn earlier_workers(&self, link: &Link, place: &Place) -> Result<Vec<String>, Error> {
        let mut call = redis::cmd("ZRANGE");
        let listed: Vec<String> =
            link.ask(call.arg(format!("{}:workers", place.base)).arg(0).arg(-1)).await?;
        let earlier = |worker: &String| worker.starts_with(&self.host) && !worker.starts_with(&self.process);
        let mut workers = self.orphans.lock().remove(&place.queue).unwrap_or_default();
        workers.extend(listed.into_iter().filter(earlier));
        Ok(workers)
    }

    /// Lists a new worker.
    pub(crate) async fn register(&self, link: &Link, place: &Place, worker: &str) -> Result<(), Error> {
        let mut call = scripts::REGISTER.call(&[&place.base]);
        call.arg(worker);
        scripts::REGISTER.run::<Value>(link, &call).await.map(drop)
    }

    /// A worker of this process leaves: what it holds goes back.
    pub(crate) async fn part(&self, link: &Link, place: &Place, worker: &str) -> Result<(), Error> {
        match place.kind {
            Kind::List => self.reap(link, place, worker).await.map(drop),
            Kind::Stream { .. } => {
                let mut call = scripts::LEAVE_STREAM.call(&[&place.base]);
                call.arg(worker);
                scripts::LEAVE_STREAM.run::<Value>(link, &call).await.map(drop)
            }
        }
    }

    /// Puts back into a list what a dead worker holds, or all dead workers if none is named. Answers
    /// how much it was.
    pub(crate) async fn reap(&self, link: &Link, place: &Place, victim: &str) -> Result<u64, Error> {
        let mut call = scripts::REAP_LIST.call(&[&place.key, &place.base]);
        call.arg(flag(place.adopt)).arg(ms(self.settings.worker_timeout)).arg(victim).arg(REAP);
        let mut all = 0;
        loop {
            let (moved, more): (u64, u8) = scripts::REAP_LIST.run(link, &call).await?;
            all += moved;
            if more == 0 {
                return Ok(all);
            }
        }
    }
}
