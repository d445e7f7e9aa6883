//! What is sent where: from a parcel of the host to a letter for the server.
//!
//! Called by the transport's `send` and by retries.

use std::{sync::Arc, time::Duration};

use brolly_core::{BrokerError, Code, Message};
use brolly_remote::{Parcel, To};

use crate::{
    Inner,
    desk::short,
    encode::{self, Copy},
    error::{Error, refused},
    flight::Letter,
    session::Session,
    waits,
};

/// How long a send waits for a connection.
const PATIENCE: Duration = Duration::from_secs(3);

impl Inner {
    /// Sends parcels, and answers for each in their order.
    pub(crate) async fn send(&self, parcels: Vec<Parcel>) -> Vec<Result<(), BrokerError>> {
        let mut results = Vec::with_capacity(parcels.len());
        let mut letters = Vec::with_capacity(parcels.len());
        let mut session = None;
        for parcel in parcels {
            let letter = match self.waiting(&parcel, &mut session).await {
                Ok(wait) => self.letter(&parcel, wait),
                Err(error) => Err(error),
            };
            match letter {
                Ok(letter) => {
                    letters.push(letter);
                    results.push(None);
                }
                Err(error) => results.push(Some(error)),
            }
        }
        let mut verdicts = self.post.send(letters).await.into_iter();
        let missing =
            || Err(Error::NotConnected("it was closed".to_owned()).failed("publish to", &self.name));
        let next = |error: Option<BrokerError>| match error {
            Some(error) => Err(error),
            None => verdicts.next().unwrap_or_else(missing),
        };
        results.into_iter().map(next).collect()
    }

    /// Makes the queue in which a parcel waits, if it does. The session is looked for once.
    async fn waiting(
        &self,
        parcel: &Parcel,
        session: &mut Option<Result<Arc<Session>, Error>>,
    ) -> Result<Option<(String, u64)>, BrokerError> {
        let To::Queue { queue, delay, .. } = &parcel.to else { return Ok(None) };
        let address = self.topology.address_of(queue);
        let Some((wait, ms)) = waits::queue_for(&address, *delay) else { return Ok(None) };
        if ms > waits::LIMIT_MS {
            let detail = "RabbitMQ holds a message back for 49 days at most; the delay is longer";
            return Err(refused(Code::Unsupported, detail));
        }
        if session.is_none() {
            *session = Some(self.session(PATIENCE).await);
        }
        let made = match session {
            Some(Ok(session)) => self.waits.make(session, &address, *delay).await,
            Some(Err(error)) => Err(error.clone()),
            None => Ok(()),
        };
        made.map_err(|error| error.failed("publish to", queue))?;
        Ok(Some((wait, ms)))
    }

    fn letter(&self, parcel: &Parcel, wait: Option<(String, u64)>) -> Result<Letter, BrokerError> {
        let message = &parcel.message;
        match (&parcel.to, wait) {
            (To::Topic, _) => {
                let exchange = self.topology.exchange_of(&message.topic);
                let must_arrive = parcel.moved.is_some() || !parcel.routed.is_empty();
                letter(&exchange, &message.key, message, None, must_arrive)
            }
            (To::Queue { attempts, .. }, Some((wait, ms))) => {
                let copy = Copy { attempts: *attempts, expiration_ms: Some(ms) };
                letter("", &wait, message, Some(copy), true)
            }
            (To::Queue { queue, attempts, .. }, None) => {
                let copy = Copy { attempts: *attempts, expiration_ms: None };
                letter("", &self.topology.address_of(queue), message, Some(copy), true)
            }
        }
    }

    /// The server has no queue where this letter should have gone.
    pub(crate) fn doubt(&self, letter: &Letter) {
        if letter.exchange.as_str().is_empty() {
            self.waits.doubt(letter.routing_key.as_str());
            self.topology.doubt(letter.routing_key.as_str());
        } else {
            self.topology.doubt(letter.exchange.as_str());
        }
    }
}

fn letter(
    exchange: &str,
    key: &str,
    message: &Message,
    copy: Option<Copy>,
    must_arrive: bool,
) -> Result<Letter, BrokerError> {
    let long = |error: Error| refused(Code::InvalidMessage, error.to_string());
    Ok(Letter {
        exchange: short(exchange).map_err(long)?,
        routing_key: short(key).map_err(long)?,
        properties: encode::properties(message, copy),
        body: message.payload.clone(),
        must_arrive,
    })
}
