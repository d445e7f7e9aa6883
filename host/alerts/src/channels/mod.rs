//! The ways to tell people something: a file for each kind. Called by `sender`; knows letters and people, and
//! nothing of alerts.

mod alibaba;
mod http;
mod sms;
mod smtp;
mod template;
mod webhook;

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

    /// Comes back when the other side has taken the letter.
    pub(crate) async fn send(&self, to: &str, letter: &Letter) -> Result<(), Failure> {
        match self {
            Self::Smtp(mailer) => mailer.send(to, letter).await,
            Self::Http(sms) => sms.send(to, letter).await,
            Self::Alibaba(sms) => sms.send(to, letter).await,
            Self::Twilio(sms) => sms.send(to, letter).await,
            Self::Webhook(hook) => hook.send(letter).await,
        }
    }
}
