//! The stream of what changes, for consoles: once all that there is, then each second what has
//! become different.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Extension,
    extract::State,
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
};
use brolly_core::{Code, Name};
use brolly_dispatch::Token;
use futures::{Stream, StreamExt, stream};
use serde::Serialize;
use tokio::{sync::OwnedSemaphorePermit, time::Interval};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Admin,
    auth::Caller,
    problem::Problem,
    pulse::{BrokerNow, Now, QueueNow, SAMPLE, SubscriptionNow, Totals},
};

/// How often something is told.
const EVERY: Duration = Duration::from_secs(1);
/// Messages of one stream; after ten minutes it ends, and who wants more asks anew, with a token or
/// session that is still good.
const TICKS: usize = 600;

/// What is told: in the event `all` everything, in the event `changes` what is new or different.
#[derive(Debug, Serialize, ToSchema)]
struct Told<'a> {
    /// Totals over everything.
    totals: Totals,
    /// Grows with every change of a definition: time to read definitions again.
    revision: u64,
    /// Queues by name.
    queues: BTreeMap<&'a str, &'a QueueNow>,
    /// Subscriptions by name.
    subscriptions: BTreeMap<&'a str, &'a SubscriptionNow>,
    /// Brokers by name.
    brokers: BTreeMap<&'a str, &'a BrokerNow>,
    /// Queues and subscriptions beyond the 5,000 of each that are looked at.
    more: usize,
    /// In `changes`: the names of what is there no more.
    #[serde(skip_serializing_if = "Option::is_none")]
    gone: Option<Gone<'a>>,
    /// In `all`: the totals of the last hour, the oldest first.
    #[serde(skip_serializing_if = "Option::is_none")]
    history: Option<History>,
}

/// What is there no more.
#[derive(Debug, Serialize, ToSchema)]
struct Gone<'a> {
    queues: Vec<&'a str>,
    subscriptions: Vec<&'a str>,
    brokers: Vec<&'a str>,
}

/// Totals over time.
#[derive(Debug, Serialize, ToSchema)]
struct History {
    /// Milliseconds between two of them.
    every_ms: u64,
    /// The totals.
    samples: Vec<Totals>,
}

pub(crate) fn router() -> OpenApiRouter<Admin> {
    OpenApiRouter::new().routes(routes!(follow_events))
}

/// Follows what everything is doing, as server-sent events whose data is JSON: first `all`, then each
/// second `changes`. The stream ends after ten minutes, or when the token is deleted; ask again.
#[utoipa::path(get, path = "/events", tag = "events",
    responses((status = 200, body = Told<'static>, content_type = "text/event-stream"),
        (status = 503, body = Problem, content_type = "application/problem+json",
            description = "unavailable: as many streams are open as may be")))]
async fn follow_events(
    State(admin): State<Admin>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Problem> {
    let Ok(permit) = admin.streams.clone().try_acquire_owned() else {
        let detail = format!("{} streams of events are open, the limit", admin.config.streams);
        return Err(Problem::refused(Code::Unavailable, detail));
    };
    let revision = admin.handle.get::<Token>(&caller.name)?.revision;
    let mut pace = tokio::time::interval(EVERY);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let follower = Follower { token: caller.name, revision, seen: None, pace, admin, _permit: permit };
    Ok(Sse::new(follower.follow()).into_response())
}

/// One open stream.
struct Follower {
    admin: Admin,
    token: Name,
    /// The token's: one made anew under the same name is another.
    revision: u64,
    seen: Option<Arc<Now>>,
    pace: Interval,
    _permit: OwnedSemaphorePermit,
}

impl Follower {
    fn follow(self) -> impl Stream<Item = Result<Event, Infallible>> {
        let stopping = self.admin.stopping.clone().cancelled_owned();
        let events = stream::unfold(self, |mut follower| async move {
            let event = follower.next().await?;
            Some((Ok(event), follower))
        });
        events.take(TICKS).take_until(stopping)
    }

    async fn next(&mut self) -> Option<Event> {
        self.pace.tick().await;
        let token = self.admin.handle.get::<Token>(&self.token).ok()?;
        if token.revision != self.revision {
            return None;
        }
        let now = self.admin.pulse.now(&self.admin.handle).await;
        let event = match &self.seen {
            None => all(&now, self.admin.pulse.history()),
            Some(seen) => changes(seen, &now),
        };
        self.seen = Some(now);
        event.inspect_err(|error| tracing::error!(%error, "an event cannot be written")).ok()
    }
}

fn all(now: &Now, samples: Vec<Totals>) -> Result<Event, axum::Error> {
    let told = Told {
        totals: now.totals,
        revision: now.revision,
        queues: different(&now.queues, None),
        subscriptions: different(&now.subscriptions, None),
        brokers: different(&now.brokers, None),
        more: now.more,
        gone: None,
        history: Some(History { every_ms: SAMPLE.as_millis() as u64, samples }),
    };
    Event::default().event("all").json_data(told)
}

fn changes(seen: &Now, now: &Now) -> Result<Event, axum::Error> {
    let told = Told {
        totals: now.totals,
        revision: now.revision,
        queues: different(&now.queues, Some(&seen.queues)),
        subscriptions: different(&now.subscriptions, Some(&seen.subscriptions)),
        brokers: different(&now.brokers, Some(&seen.brokers)),
        more: now.more,
        gone: Some(Gone {
            queues: missing(&seen.queues, &now.queues),
            subscriptions: missing(&seen.subscriptions, &now.subscriptions),
            brokers: missing(&seen.brokers, &now.brokers),
        }),
        history: None,
    };
    Event::default().event("changes").json_data(told)
}

fn different<'a, T: PartialEq>(
    now: &'a BTreeMap<Name, T>,
    seen: Option<&BTreeMap<Name, T>>,
) -> BTreeMap<&'a str, &'a T> {
    let is_new = |name: &Name, value: &T| seen.and_then(|seen| seen.get(name)) != Some(value);
    now.iter()
        .filter(|(name, value)| is_new(name, value))
        .map(|(name, value)| (name.as_str(), value))
        .collect()
}

fn missing<'a, T>(seen: &'a BTreeMap<Name, T>, now: &BTreeMap<Name, T>) -> Vec<&'a str> {
    seen.keys().filter(|name| !now.contains_key(name)).map(Name::as_str).collect()
}
