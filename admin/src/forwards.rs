//! Forwards: how far a subscription that moves messages has come, on one page.

use axum::{Json, extract::State};
use brolly_core::Name;
use brolly_dispatch::{Arrival, Progress, Tally};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{Admin, extract::NameInPath, problem::Problem, queues::Counts};

/// The queue that a forward takes from.
#[derive(Debug, Serialize, ToSchema)]
struct From {
    queue: String,
    /// What it still holds.
    counts: Counts,
    /// Whether others take from it, too, and its broker does not tell what they have in hand.
    elsewhere: bool,
}

/// A queue that a forward leads to.
#[derive(Debug, Serialize, ToSchema)]
struct To {
    queue: String,
    /// What it holds.
    counts: Counts,
    /// The subscription that takes from it.
    subscription: Option<String>,
    /// Deliveries that this acknowledged.
    handled: u64,
    /// Messages that have come to this queue by whatever way and are accounted for: waiting, handled
    /// or dead. Null where the broker cannot tell.
    arrived: Option<u64>,
    /// What was forwarded and is not accounted for, in a queue whose routes take every message; below
    /// zero if other producers' messages came to it, too. Null where the broker cannot tell.
    missing: Option<i64>,
}

/// How far a forward has come. Every number counts messages, each once, within the history that the
/// host keeps.
#[derive(Debug, Serialize, ToSchema)]
struct ForwardBody {
    subscription: String,
    from: From,
    /// The topic that it moves messages to.
    topic: String,
    /// Messages that it has taken and attempted: those below, and those that are tried again.
    taken: u64,
    /// Messages that were confirmed by the topic's broker.
    forwarded: u64,
    /// Messages that the topic's broker refused for good: dead letters of the queue.
    rejected: u64,
    /// The queues that a route leads to from the topic.
    to: Vec<To>,
    /// Whether nothing is left in the queue nor in the hands of others, and in every queue that it leads to
    /// nothing is missing.
    complete: bool,
}

impl To {
    fn new(arrival: Arrival, forwarded: u64) -> Self {
        let arrived = arrival.arrived();
        let (subscription, tally) = arrival.subscription.unzip();
        let difference = |arrived: u64| i64::try_from(forwarded).ok()?.checked_sub_unsigned(arrived);
        Self {
            queue: arrival.queue.to_string(),
            counts: arrival.counts.into(),
            subscription: subscription.map(|name| name.to_string()),
            handled: tally.unwrap_or_default().acked,
            arrived,
            missing: arrived.and_then(difference),
        }
    }
}

impl ForwardBody {
    fn new(name: &Name, progress: Progress) -> Self {
        let Tally { waiting, acked: forwarded, dead, discarded } = progress.taken;
        let to: Vec<To> = progress.arrivals.into_iter().map(|arrival| To::new(arrival, forwarded)).collect();
        let left = [progress.left.ready, progress.left.in_flight, progress.left.delayed];
        let elsewhere = progress.left.elsewhere;
        Self {
            subscription: name.to_string(),
            from: From { queue: progress.queue.to_string(), counts: progress.left.into(), elsewhere },
            topic: progress.topic.to_string(),
            taken: waiting + forwarded + dead + discarded,
            forwarded,
            rejected: dead + discarded,
            complete: left == [Some(0); 3]
                && !elsewhere
                && to.iter().all(|to| to.missing.is_some_and(|missing| missing <= 0)),
            to,
        }
    }
}

pub(crate) fn router() -> OpenApiRouter<Admin> {
    OpenApiRouter::new().routes(routes!(get_forward))
}

/// Shows how far a forward has come: what it took, what it moved, and what became of that. Counted in
/// the ledger, so it takes about two seconds for each million deliveries in it.
#[utoipa::path(get, path = "/subscriptions/{subscription}/forward", tag = "subscriptions",
    params(("subscription" = String, Path)),
    responses((status = 200, body = ForwardBody),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "not-found"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "unsupported: the subscription has a plugin")))]
async fn get_forward(
    State(admin): State<Admin>,
    NameInPath(name): NameInPath,
) -> Result<Json<ForwardBody>, Problem> {
    Ok(Json(ForwardBody::new(&name, admin.handle.progress(&name).await?)))
}
