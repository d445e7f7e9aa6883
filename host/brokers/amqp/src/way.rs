//! One channel of a consumption: what it has brought, and what the server is to be told of that.
//!
//! Called by a line, for the queue and for the dead letters that RabbitMQ makes of it.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures::FutureExt;
use lapin::{
    Channel, Consumer,
    options::{BasicAckOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions},
    types::{FieldTable, ShortString},
};
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use crate::{
    acks::{Acks, Word},
    desk::short,
    error::Error,
};

/// How long a server may take to put back what it was told to, or what a channel held that is closed: a
/// quorum queue does so after it has answered.
pub(crate) const PUTTING_BACK: Duration = Duration::from_secs(1);

/// Who may ask at once how many messages are unsettled; further ones wait.
const ASKING: usize = 16;

/// One channel.
pub(crate) struct Way {
    pub channel: Channel,
    /// The server's name of what it consumes.
    queue: ShortString,
    prefetch: u16,
    /// Whoever wants to know when all that the server has handed out by now has arrived.
    asking: mpsc::Sender<oneshot::Sender<()>>,
    pub acks: Mutex<Acks>,
    /// When the server was told to put how many messages back.
    returned: Mutex<VecDeque<(Instant, u64)>>,
    /// Whether it brings dead letters.
    pub dead: bool,
    /// Whether the server knows its consumer, for sure.
    standing: AtomicBool,
}

/// Where those who ask wait for the answer.
pub(crate) type Asked = mpsc::Receiver<oneshot::Sender<()>>;

/// What comes by one channel.
pub(crate) struct Arrivals {
    pub consumer: Consumer,
    pub asked: Asked,
}

impl Way {
    /// Opens a channel. It brings nothing yet.
    pub(crate) async fn open(
        connection: &lapin::Connection,
        queue: &str,
        prefetch: u16,
        dead: bool,
    ) -> Result<(Self, Asked), Error> {
        let queue = short(queue)?;
        let channel = connection.create_channel().await?;
        channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
        let (asking, asked) = mpsc::channel(ASKING);
        let (acks, returned, standing) = Default::default();
        Ok((Self { channel, queue, prefetch, asking, acks, returned, dead, standing }, asked))
    }

    /// Has the server hand out messages.
    pub(crate) async fn consume(&self) -> lapin::Result<Consumer> {
        let (queue, options) = (self.queue.clone(), BasicConsumeOptions::default());
        let consumer =
            self.channel.basic_consume(queue, "brolly".into(), options, FieldTable::default()).await?;
        self.standing.store(true, Ordering::Release);
        Ok(consumer)
    }

    /// The server will not know its consumer for much longer.
    pub(crate) fn ends(&self) {
        self.standing.store(false, Ordering::Release);
    }

    /// Whether the server knows its consumer. False in the moments in which it may or may not.
    pub(crate) fn stands(&self) -> bool {
        self.standing.load(Ordering::Acquire) && self.channel.status().connected()
    }

    /// How many the server waits to hear of, or has just been told to put back.
    pub(crate) fn unsettled(&self) -> u64 {
        let acks = self.acks.lock();
        let mut returned = self.returned.lock();
        returned.retain(|(at, _)| at.elapsed() < PUTTING_BACK);
        acks.open() as u64 + returned.iter().map(|(_, count)| count).sum::<u64>()
    }

    /// Waits until whoever reads has counted what the server had handed out, and the server has heard
    /// what it was told.
    pub(crate) async fn catch_up(&self) {
        let (answer, answered) = oneshot::channel();
        // One that has ended drops the question.
        let read = self.asking.send(answer).await.is_ok() && answered.await.is_ok();
        if !read && self.channel.status().connected() {
            let _ = self.echo().await;
        }
    }

    /// The server answers this behind all that it has handed out before. It changes nothing.
    pub(crate) async fn echo(&self) -> lapin::Result<()> {
        self.channel.basic_qos(self.prefetch, BasicQosOptions::default()).await
    }

    /// Tells the server what there is to tell; answers whether there was something.
    pub(crate) async fn tell(&self, all: bool) -> bool {
        let words = {
            let mut acks = self.acks.lock();
            let words = acks.take(all);
            let returned = words.iter().filter(|word| matches!(word, Word::Requeue(_))).count();
            if returned > 0 {
                self.returned.lock().push_back((Instant::now(), returned as u64));
            }
            words
        };
        if words.is_empty() {
            return false;
        }
        if let Err(error) = self.say(words).await {
            tracing::debug!(%error, "settlements are lost with their channel");
        }
        true
    }

    /// Whether nothing is to be told any more, or nobody is there to be told.
    pub(crate) fn is_done(&self) -> bool {
        !self.channel.status().connected() || self.acks.lock().open() == 0
    }

    /// Says it in this order. Answers when it is sent.
    async fn say(&self, words: Vec<Word>) -> lapin::Result<()> {
        let mut telling: Vec<_> = words
            .into_iter()
            .map(|word| {
                let channel = self.channel.clone();
                async move {
                    match word {
                        Word::Ack(tag) => channel.basic_ack(tag, BasicAckOptions { multiple: false }).await,
                        Word::AckUpTo(tag) => {
                            channel.basic_ack(tag, BasicAckOptions { multiple: true }).await
                        }
                        Word::Requeue(tag) => {
                            channel.basic_nack(tag, BasicNackOptions { multiple: false, requeue: true }).await
                        }
                    }
                }
                .boxed()
            })
            .collect();
        // Polled once they stand in lapin's line, and need not wait for each other to be sent.
        let mut sent = Vec::with_capacity(telling.len());
        for word in &mut telling {
            sent.push(futures::poll!(word));
        }
        for (word, sent) in telling.into_iter().zip(sent) {
            match sent {
                std::task::Poll::Ready(result) => result?,
                std::task::Poll::Pending => word.await?,
            }
        }
        Ok(())
    }
}
