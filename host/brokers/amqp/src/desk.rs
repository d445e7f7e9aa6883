//! A channel for questions and orders that are answered one by one. A server answers an order that
//! it refuses by closing the channel; the next order opens another.
//!
//! Called by topology, counts and admission. One at a time: it stands behind a lock of the session.

use std::time::Duration;

use lapin::{
    Channel, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions},
    types::{FieldTable, ShortString},
};

use crate::error::Error;

/// How long one order may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a queue looks like from outside.
pub(crate) struct View {
    /// Messages for which no consumer has been asked.
    pub ready: u64,
    /// Whoever takes from it.
    pub consumers: u64,
}

/// The channel, if it is open.
#[derive(Default)]
pub(crate) struct Desk {
    channel: Option<Channel>,
}

/// A name as AMQP takes it.
pub(crate) fn short(text: &str) -> Result<ShortString, Error> {
    ShortString::try_new(text)
        .map_err(|_| Error::Client(format!("{text:?} has {} bytes, AMQP allows 255", text.len())))
}

impl Desk {
    async fn order<T>(
        &mut self,
        connection: &lapin::Connection,
        order: impl AsyncFnOnce(&Channel) -> lapin::Result<T>,
    ) -> Result<T, Error> {
        let ordering = async {
            let channel = match self.channel.take().filter(|channel| channel.status().connected()) {
                Some(channel) => channel,
                None => connection.create_channel().await?,
            };
            let result = order(&channel).await;
            if channel.status().connected() {
                self.channel = Some(channel);
            }
            Ok(result?)
        };
        match tokio::time::timeout(PATIENCE, ordering).await {
            Ok(result) => result,
            Err(_) => Err(Error::Silent(PATIENCE)),
        }
    }

    /// Makes a durable topic exchange, or makes sure that there is any exchange of that name.
    pub(crate) async fn exchange(
        &mut self,
        connection: &lapin::Connection,
        name: &str,
        passive: bool,
    ) -> Result<(), Error> {
        let name = short(name)?;
        let options = ExchangeDeclareOptions { durable: true, passive, ..ExchangeDeclareOptions::default() };
        self.order(connection, async |channel: &Channel| {
            channel.exchange_declare(name, ExchangeKind::Topic, options, FieldTable::default()).await
        })
        .await
    }

    /// Makes a durable queue.
    pub(crate) async fn queue(
        &mut self,
        connection: &lapin::Connection,
        name: &str,
        arguments: FieldTable,
    ) -> Result<(), Error> {
        let name = short(name)?;
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        self.order(connection, async |channel: &Channel| {
            channel.queue_declare(name, options, arguments).await.map(|_| ())
        })
        .await
    }

    /// Looks at a queue; none if there is no such queue.
    pub(crate) async fn look(
        &mut self,
        connection: &lapin::Connection,
        name: &str,
    ) -> Result<Option<View>, Error> {
        let name = short(name)?;
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let asked = self
            .order(connection, async |channel: &Channel| {
                channel.queue_declare(name, options, FieldTable::default()).await
            })
            .await;
        match asked {
            Ok(queue) => Ok(Some(View {
                ready: u64::from(queue.message_count()),
                consumers: u64::from(queue.consumer_count()),
            })),
            Err(error) if error.code() == Some(crate::error::code::NOT_FOUND) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Binds a queue to an exchange, or unbinds it.
    pub(crate) async fn bind(
        &mut self,
        connection: &lapin::Connection,
        (exchange, queue, key): (&str, &str, &str),
        bind: bool,
    ) -> Result<(), Error> {
        let (exchange, queue, key) = (short(exchange)?, short(queue)?, short(key)?);
        self.order(connection, async |channel: &Channel| {
            if bind {
                channel
                    .queue_bind(queue, exchange, key, QueueBindOptions::default(), FieldTable::default())
                    .await
            } else {
                channel.queue_unbind(queue, exchange, key, FieldTable::default()).await
            }
        })
        .await
    }

    /// Deletes a queue with what it holds; one that does not exist is deleted already.
    pub(crate) async fn delete(&mut self, connection: &lapin::Connection, name: &str) -> Result<(), Error> {
        let name = short(name)?;
        self.order(connection, async |channel: &Channel| {
            channel.queue_delete(name, QueueDeleteOptions::default()).await.map(|_| ())
        })
        .await
    }
}
