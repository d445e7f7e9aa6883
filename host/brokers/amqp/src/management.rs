//! RabbitMQ's management API, for the one number that AMQP does not tell: what all consumers of a
//! queue, of this host and others, have not settled.
//!
//! Called by counts, where the definition names the API.

use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use crate::settings::Management;

/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// The API of one virtual host.
pub(crate) struct Api {
    client: reqwest::Client,
    at: Management,
    vhost: String,
}

#[derive(Deserialize)]
struct Queue {
    /// Missing until the server has gathered its first statistics of the queue.
    messages_unacknowledged: Option<u64>,
}

impl Api {
    pub(crate) fn new(at: Management, vhost: &str, authority: Option<&str>) -> Result<Self, reqwest::Error> {
        let mut client = reqwest::Client::builder().timeout(PATIENCE);
        if let Some(pem) = authority {
            client = client.add_root_certificate(reqwest::Certificate::from_pem(pem.as_bytes())?);
        }
        Ok(Self { client: client.build()?, at, vhost: escape(vhost) })
    }

    /// How many messages of a queue are handed out and not settled. Some seconds old.
    pub(crate) async fn unsettled(&self, queue: &str) -> Result<Option<u64>, reqwest::Error> {
        let base = self.at.url.as_str().trim_end_matches('/');
        let url = format!("{base}/api/queues/{}/{}", self.vhost, escape(queue));
        let request = self.client.get(url).basic_auth(&self.at.user, Some(&self.at.password));
        let queue: Queue = request.send().await?.error_for_status()?.json().await?;
        Ok(queue.messages_unacknowledged)
    }
}

fn escape(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}
