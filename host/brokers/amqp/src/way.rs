//! One channel of a consumption: what it has brought, and what the server is to be told of that.
//!
//! Called by a line, for the queue and for the dead letters that RabbitMQ makes of it.

use futures::FutureExt;
use lapin::{
    Channel, Consumer,
    options::{BasicAckOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions},
    types::{FieldTable, ShortString},
};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use crate::{
    acks::{Acks, Word},
    desk::short,
    error::Error,
};

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
    /// Whether it brings dead letters.
    pub dead: bool,
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
        Ok((Self { channel, queue, prefetch, asking, acks: Mutex::default(), dead }, asked))
    }

    /// Has the server hand out messages.
    pub(crate) async fn consume(&self) -> lapin::Result<Consumer> {
        let (queue, options) = (self.queue.clone(), BasicConsumeOptions::default());
        self.channel.basic_consume(queue, "brolly".into(), options, FieldTable::default()).await
    }

    /// How many the server waits to hear of: none of a channel that it has closed.
    pub(crate) fn unsettled(&self) -> u64 {
        let status = self.channel.status();
        if status.connected() || status.closing() { self.acks.lock().open() as u64 } else { 0 }
    }

    /// Waits until whoever reads has counted what the server had handed out, and the server has done
    /// what it was told.
    pub(crate) async fn catch_up(&self) {
        let (answer, answered) = oneshot::channel();
        // One that has ended drops the question.
        if self.asking.send(answer).await.is_ok() {
            let _ = answered.await;
        }
    }

    /// The server answers this behind all that it has handed out before. It changes nothing.
    pub(crate) async fn echo(&self) -> lapin::Result<()> {
        self.channel.basic_qos(self.prefetch, BasicQosOptions::default()).await
    }

    /// Tells the server what there is to tell; answers whether there was something.
    pub(crate) async fn tell(&self, all: bool) -> bool {
        let words = self.acks.lock().take(all);
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
