//! The ways to tell people something: a file for each kind. Called by `sender`; knows letters and people, and
//! nothing of alerts.

mod alibaba;
mod http;
mod sms;
mod smtp;
mod template;
mod webhook;

use std::time::Duration;

use brolly_core::{Channel, Refusal, Sms};

use crate::{Failure, notice::Letter};

pub(crate) use http::client as http_client;
pub(crate) use smtp::check_address;

/// A channel, ready to be used.
pub(crate) enum Sender {
    Smtp(smtp::Mailer),
    Http(sms::Http),
    Alibaba(alibaba::Alibaba),
    Twilio(sms::Twilio),
    Webhook(webhook::Hook),
}

impl Sender {
    /// How long all of one notice may take.
    const PATIENCE: Duration = Duration::from_secs(30);

    /// # Errors
    /// [`brolly_core::Code::InvalidDefinition`], naming the field.
    pub(crate) fn new(channel: &Channel, client: &reqwest::Client) -> Result<Self, Refusal> {
        Ok(match channel {
            Channel::Smtp(smtp) => Self::Smtp(smtp::Mailer::new(smtp)?),
            Channel::Sms(Sms::Http(sms)) => Self::Http(sms::Http::new(sms, client)?),
            Channel::Sms(Sms::Alibaba(sms)) => Self::Alibaba(alibaba::Alibaba::new(sms, client)?),
            Channel::Sms(Sms::Twilio(sms)) => Self::Twilio(sms::Twilio::new(sms, client)?),
            Channel::Webhook(hook) => Self::Webhook(webhook::Hook::new(hook, client)?),
        })
    }

    /// Comes back when the other side has taken the letter, at the latest after [`Self::PATIENCE`].
    pub(crate) async fn send(&self, to: &str, letter: &Letter) -> Result<(), Failure> {
        self.send_within(Self::PATIENCE, to, letter).await
    }

    async fn send_within(&self, limit: Duration, to: &str, letter: &Letter) -> Result<(), Failure> {
        let sent = tokio::time::timeout(limit, self.try_send(to, letter)).await;
        sent.unwrap_or_else(|_| Err(Failure::new(format!("the other side did not answer within {limit:?}"))))
    }

    async fn try_send(&self, to: &str, letter: &Letter) -> Result<(), Failure> {
        match self {
            Self::Smtp(mailer) => mailer.send(to, letter).await,
            Self::Http(sms) => sms.send(to, letter).await,
            Self::Alibaba(sms) => sms.send(to, letter).await,
            Self::Twilio(sms) => sms.send(to, letter).await,
            Self::Webhook(hook) => hook.send(letter).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use brolly_core::{Name, Timestamp};
    use serde_json::json;

    use super::*;

    /// A server that takes connections and never says a word.
    #[tokio::test]
    async fn who_does_not_answer_is_not_waited_for() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = silent.local_addr().unwrap().port();
        let letter = Letter::test("h", &Name::new("c").unwrap(), Timestamp(0));
        for definition in [
            json!({"kind": "smtp", "url": format!("smtp://127.0.0.1:{port}"), "from": "a@b.c"}),
            json!({"kind": "webhook", "url": format!("http://127.0.0.1:{port}/")}),
        ] {
            let channel = serde_json::from_value(definition).unwrap();
            let sender = Sender::new(&channel, &http_client().unwrap()).unwrap();
            let failure = sender.send_within(Duration::from_millis(50), "a@b.c", &letter).await.unwrap_err();
            assert!(failure.to_string().contains("did not answer within 50ms"), "{failure}");
        }
    }
}
