//! Feeds: what others publish where nothing is kept, written into a topic as it is heard.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{Name, NewMessage, Timestamp};

/// A channel of another system from which a topic gets messages. That system keeps none of them: what
/// is published while nobody listens is lost, and the gap is recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Feed {
    /// The broker that has the channel.
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub broker: Name,
    /// The channel, or a pattern of channels (`*`, `?` and `[ab]` as in Redis): 1 to 255 bytes.
    pub channel: String,
    /// Of the hosts with the same group one listens at a time; the name of the topic if not given. 1 to
    /// 255 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}

/// A time in which nobody listened: what was published then is lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The last moment at which somebody is known to have listened.
    pub from: Timestamp,
    /// When somebody did again.
    pub to: Timestamp,
    /// Why.
    pub reason: String,
}

/// Whether a feed is heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// This host listens.
    Listening,
    /// Another host of the group listens.
    Standby,
    /// Nobody does, as far as this host knows, for this reason.
    Lost(String),
}

/// Who wants to listen to a feed.
#[derive(Clone, Copy, Debug)]
pub struct Seat<'a> {
    /// Of a group, one host listens at a time.
    pub group: &'a str,
    /// The host, by a name that it keeps when it starts anew.
    pub host: &'a str,
    /// When this host last heard the feed: what was missed since is a gap.
    pub heard: Option<Timestamp>,
}

/// Who listens to a feed.
#[async_trait]
pub trait Listener: Send + Sync {
    /// Takes a message; comes back when it is durable.
    async fn hear(&self, message: NewMessage);

    /// How it stands now; told at every change, and again every few seconds.
    fn stands(&self, standing: Standing);

    /// Something was missed.
    fn missed(&self, gap: Gap);
}
