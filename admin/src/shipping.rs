//! The life of a version in a subscription: the changes with their proof, the way back, and candidates that are
//! held against the running version.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::{FromRequest, Request, State},
    http::{StatusCode, header},
};
use brolly_core::{Name, Rollout, Subscription};
use brolly_dispatch::{Cause, Example, Part as ExamplePart, Report, Side, Stage, Swap, Took};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Admin,
    body::Defined,
    definitions::Entity,
    extract::{By, NameInPath, Query},
    page::{Items, Part},
    problem::Problem,
    sight::Sight,
};

/// What one version did. At every moment `taken` is the sum of `acked`, `retried`, `dead`, `released`, `in_hand`
/// and `lost`.
#[derive(Debug, Serialize, ToSchema)]
struct SideBody {
    /// When it took its first delivery, in milliseconds since 1970.
    first_taken_at_ms: Option<u64>,
    /// When it finished the latest one.
    last_finished_at_ms: Option<u64>,
    /// Deliveries it took.
    taken: u64,
    /// Of these, it acknowledged.
    acked: u64,
    /// Of these, it left to be tried again.
    retried: u64,
    /// Of these, it made dead letters.
    dead: u64,
    /// Of these, the host put back: it could not serve them, or something broke off.
    released: u64,
    /// Of these, it has in hand.
    in_hand: u64,
    /// Attempts that faulted.
    faults: u64,
    /// Deliveries of which nobody knows what became: always 0.
    lost: u64,
    /// Deliveries that the version before had in hand at the same time: always 0. One that it has decided
    /// never reaches a handler again.
    twice: u64,
}

impl From<Side> for SideBody {
    fn from(side: Side) -> Self {
        Self {
            lost: side.lost(),
            first_taken_at_ms: side.first_taken_at.map(|at| at.0),
            last_finished_at_ms: side.last_finished_at.map(|at| at.0),
            taken: side.taken,
            acked: side.acked,
            retried: side.retried,
            dead: side.dead,
            released: side.released,
            in_hand: side.in_hand,
            faults: side.faults,
            twice: side.twice,
        }
    }
}

/// A change of what handles a subscription: its version, or the terms that it runs on.
#[derive(Debug, Serialize, ToSchema)]
struct SwapBody {
    /// Counts from 1.
    number: u64,
    /// When it was done, in milliseconds since 1970.
    at_ms: u64,
    /// put, rolled_back, returned (the host went back) or promoted.
    cause: &'static str,
    /// In words, where the host did it by itself.
    why: Option<String>,
    /// Whose token asked for it.
    by: Option<String>,
    /// The version before; null the first time.
    from: Option<String>,
    /// The version that took over.
    version: String,
    /// What the subscription ran on before, and runs on again after a rollback of this change: plugin,
    /// version, config, limits, grants and instances.
    before: Option<Value>,
    /// What the version before has done since it took over itself.
    old: SideBody,
    /// What this version has done since. A host that is killed forgets the last 10 seconds of these numbers.
    new: SideBody,
    /// When the old version had finished all it had in hand and its instances were gone with their memory;
    /// seen within a second.
    freed_at_ms: Option<u64>,
}

impl TryFrom<Swap> for SwapBody {
    type Error = Problem;

    fn try_from(swap: Swap) -> Result<Self, Problem> {
        Ok(Self {
            number: swap.number,
            at_ms: swap.at.0,
            cause: match swap.cause {
                Cause::Put => "put",
                Cause::RolledBack => "rolled_back",
                Cause::Returned => "returned",
                Cause::Promoted => "promoted",
            },
            why: swap.why,
            by: swap.by.map(|name| name.to_string()),
            from: swap.before.as_ref().map(|terms| terms.version.to_string()),
            version: swap.version.to_string(),
            before: swap.before.map(|terms| serde_json::to_value(&terms)).transpose()?,
            old: swap.old.into(),
            new: swap.new.into(),
            freed_at_ms: swap.freed_at.map(|at| at.0),
        })
    }
}

/// Which change to go back behind.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Back {
    /// The number of a change; left out, it is the latest one.
    #[serde(default)]
    swap: Option<u64>,
}

impl FromRequest<Admin> for Back {
    type Rejection = Problem;

    /// The body may be left out.
    async fn from_request(request: Request, admin: &Admin) -> Result<Self, Problem> {
        let headers = request.headers();
        let length = headers.get(header::CONTENT_LENGTH).map(header::HeaderValue::as_bytes);
        let empty =
            length.is_none_or(|length| length == b"0") && !headers.contains_key(header::TRANSFER_ENCODING);
        if empty {
            return Ok(Self::default());
        }
        Ok(Defined::<Self>::from_request(request, admin).await?.0)
    }
}

/// What the attempts of one version took and came to.
#[derive(Debug, Serialize, ToSchema)]
struct TookBody {
    /// Attempts by outcome: ack, retry, reject, fault.
    outcomes: BTreeMap<String, u64>,
    /// How long an attempt took on average, in microseconds; null without one.
    mean_us: Option<u64>,
    /// The longest, in microseconds.
    longest_us: u64,
    /// CPU time of an attempt on average, in microseconds; null without one.
    mean_cpu_us: Option<u64>,
    /// The most linear memory, in bytes.
    memory_bytes: u64,
    /// Messages published, or that would have been.
    published: u64,
    /// Keys of state written, or that would have been.
    state_writes: u64,
}

impl From<Took> for TookBody {
    fn from(took: Took) -> Self {
        let attempts: u64 = took.outcomes.values().sum();
        Self {
            mean_us: took.total_us.checked_div(attempts),
            longest_us: took.longest_us,
            mean_cpu_us: took.cpu_us.checked_div(attempts),
            memory_bytes: took.memory_bytes,
            published: took.published,
            state_writes: took.state_writes,
            outcomes: took.outcomes,
        }
    }
}

/// One side of a difference: what this version did that the other one did not do, or not so.
#[derive(Debug, Serialize, ToSchema)]
struct PartBody {
    /// ack, retry, reject or fault.
    outcome: String,
    /// Why, where it is no ack; null where it must not be seen.
    reason: Option<String>,
    /// State written; null deletes. Null as a whole where it must not be seen.
    state: Option<BTreeMap<String, Value>>,
    /// Messages published; null where they must not be seen.
    published: Option<Vec<Value>>,
    /// Whether there is more than is shown.
    cut: bool,
}

impl PartBody {
    fn new(part: ExamplePart, seen: bool) -> Result<Self, Problem> {
        if !seen {
            let (reason, state, published) = (None, None, None);
            return Ok(Self { outcome: part.outcome, reason, state, published, cut: part.cut });
        }
        let mut state = BTreeMap::new();
        for (key, value) in part.state {
            let json = value.as_ref().and_then(|value| serde_json::from_slice(&value.0).ok());
            let shown = match json {
                Some(json) => json,
                None => serde_json::to_value(&value)?,
            };
            state.insert(key, shown);
        }
        let published = part.published.iter().map(serde_json::to_value).collect::<Result<_, _>>()?;
        let (state, published) = (Some(state), Some(published));
        Ok(Self { outcome: part.outcome, reason: part.reason, state, published, cut: part.cut })
    }
}

/// A delivery in which something differs.
#[derive(Debug, Serialize, ToSchema)]
struct ExampleBody {
    /// The message.
    message_id: String,
    /// Its topic.
    topic: String,
    /// Its key.
    key: String,
    /// When it was compared, in milliseconds since 1970.
    at_ms: u64,
    /// What differs: outcome, reason, state, published.
    differs: Vec<String>,
    /// What the running version did.
    running: PartBody,
    /// What the candidate did.
    candidate: PartBody,
}

/// A rollout and what came of it so far.
#[derive(Debug, Serialize, ToSchema)]
struct ReportBody {
    /// As it was wanted.
    #[serde(flatten)]
    definition: Rollout,
    /// The version that runs beside it.
    against: Option<String>,
    /// running, promoted or abandoned.
    stage: &'static str,
    /// When it began, in milliseconds since 1970.
    since_ms: u64,
    /// When it ended.
    ended_at_ms: Option<u64>,
    /// Why, where the host ended it by a rule.
    why: Option<String>,
    /// Deliveries that both have handled.
    compared: u64,
    /// Deliveries of the share that were handled and not compared: comparing was behind, or the attempt could
    /// not be made again in the same way.
    skipped: u64,
    /// Of those compared, where nothing differs.
    same: u64,
    /// Where something differs.
    differing: u64,
    /// Where the candidate failed and the running version acknowledged.
    worse: u64,
    /// In how many what differs: outcome, reason, state, published.
    differs: BTreeMap<String, u64>,
    /// What the running version took and came to.
    running: TookBody,
    /// What the candidate took and came to.
    candidate: TookBody,
    /// The first deliveries in which something differs, up to 20. What was written and published there is shown
    /// to tokens with the right `payloads`, and `unmasked` where a topic or queue masks values.
    examples: Vec<ExampleBody>,
}

impl ReportBody {
    fn new(admin: &Admin, sight: Sight, subscription: &Name, report: Report) -> Result<Self, Problem> {
        let queue = admin.handle.get::<Subscription>(subscription)?.value.queue.clone();
        let example = |example: Example| -> Result<ExampleBody, Problem> {
            let mut mask = admin.handle.masks(&example.topic, [&queue]);
            for published in example.running.published.iter().chain(&example.candidate.published) {
                mask.extend(admin.handle.masks(&published.topic, []));
            }
            let seen = sight.is_whole(&mask);
            Ok(ExampleBody {
                message_id: example.message_id,
                topic: example.topic.to_string(),
                key: example.key,
                at_ms: example.at.0,
                differs: example.differs,
                running: PartBody::new(example.running, seen)?,
                candidate: PartBody::new(example.candidate, seen)?,
            })
        };
        Ok(Self {
            against: report.against.map(|version| version.to_string()),
            stage: match report.stage {
                Stage::Running => "running",
                Stage::Promoted => "promoted",
                Stage::Abandoned => "abandoned",
            },
            since_ms: report.since.0,
            ended_at_ms: report.ended_at.map(|at| at.0),
            why: report.why,
            compared: report.compared,
            skipped: report.skipped,
            same: report.compared.saturating_sub(report.differing),
            differing: report.differing,
            worse: report.worse,
            differs: report.differs,
            running: report.running.into(),
            candidate: report.candidate.into(),
            examples: report.examples.into_iter().map(example).collect::<Result<_, _>>()?,
            definition: report.definition,
        })
    }
}

pub(crate) fn router() -> OpenApiRouter<Admin> {
    OpenApiRouter::new()
        .routes(routes!(list_swaps))
        .routes(routes!(roll_back))
        .routes(routes!(get_rollout, put_rollout, delete_rollout))
        .routes(routes!(promote))
}

/// Lists the changes of what handles a subscription, newest first: when the new version took its first delivery
/// and the old one finished its last, how many each handled, and that none was lost or handled twice. The latest
/// 50 are kept.
#[utoipa::path(get, path = "/subscriptions/{subscription}/swaps", tag = "subscriptions",
    params(("subscription" = String, Path), Part),
    responses((status = 200, body = Items<SwapBody>),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "not-found")))]
async fn list_swaps(
    State(admin): State<Admin>,
    NameInPath(subscription): NameInPath,
    Query(part): Query<Part>,
) -> Result<Json<Items<SwapBody>>, Problem> {
    let limit = part.limit()?;
    let mut swaps = admin.handle.swaps(&subscription, part.after_number()?, limit + 1).await?;
    let more = swaps.len() > limit;
    swaps.truncate(limit);
    let next = swaps.last().filter(|_| more).map(|swap| swap.number.to_string());
    let items = swaps.into_iter().map(SwapBody::try_from).collect::<Result<_, _>>()?;
    Ok(Json(Items { items, next }))
}

/// Goes back to what handled the subscription before its latest change, or before the one that the body names:
/// version, configuration, limits and grants. A rollout ends with it. What is in hand is finished by the version
/// that has it.
#[utoipa::path(post, path = "/subscriptions/{subscription}/rollback", tag = "subscriptions",
    params(("subscription" = String, Path)), request_body = Option<Back>,
    responses((status = 200, body = Entity<Subscription>),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "not-found: there is no such change, or no version before it"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "unknown-reference: the version was removed; invalid-definition")))]
async fn roll_back(
    By(handle): By,
    NameInPath(subscription): NameInPath,
    back: Back,
) -> Result<Json<Entity<Subscription>>, Problem> {
    let entry = handle.roll_back(&subscription, back.swap).await?;
    Ok(Json(Entity::new(&subscription, &entry)))
}

/// Shows the latest rollout of a subscription: what the candidate and the running version came to over the same
/// deliveries, with examples of where they differ.
#[utoipa::path(get, path = "/subscriptions/{subscription}/rollout", tag = "subscriptions",
    params(("subscription" = String, Path)),
    responses((status = 200, body = ReportBody),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "not-found")))]
async fn get_rollout(
    State(admin): State<Admin>,
    sight: Sight,
    NameInPath(subscription): NameInPath,
) -> Result<Json<ReportBody>, Problem> {
    let report = admin.handle.rollout(&subscription)?;
    Ok(Json(ReportBody::new(&admin, sight, &subscription, report)?))
}

/// Begins a rollout, in the place of any other: the candidate gets its share of the deliveries, with effect
/// (`canary`) or without (`shadow`). The same as `rollout` in the definition of the subscription.
#[utoipa::path(put, path = "/subscriptions/{subscription}/rollout", tag = "subscriptions",
    params(("subscription" = String, Path)), request_body = Rollout,
    responses((status = 200, body = Entity<Subscription>),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "not-found"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "invalid-definition, invalid-plugin, samples-failed, unknown-reference")))]
async fn put_rollout(
    By(handle): By,
    NameInPath(subscription): NameInPath,
    Defined(rollout): Defined<Rollout>,
) -> Result<Json<Entity<Subscription>>, Problem> {
    let entry = handle.start_rollout(&subscription, rollout).await?;
    Ok(Json(Entity::new(&subscription, &entry)))
}

/// Abandons the candidate: the running version handles everything again.
#[utoipa::path(delete, path = "/subscriptions/{subscription}/rollout", tag = "subscriptions",
    params(("subscription" = String, Path)),
    responses((status = 204, description = "Abandoned"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "not-found: there is no rollout")))]
async fn delete_rollout(By(handle): By, NameInPath(subscription): NameInPath) -> Result<StatusCode, Problem> {
    handle.end_rollout(&subscription, false).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lets the candidate take over.
#[utoipa::path(post, path = "/subscriptions/{subscription}/rollout/promote", tag = "subscriptions",
    params(("subscription" = String, Path)),
    responses((status = 200, body = Entity<Subscription>),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "not-found: there is no rollout")))]
async fn promote(
    By(handle): By,
    NameInPath(subscription): NameInPath,
) -> Result<Json<Entity<Subscription>>, Problem> {
    let entry = handle.end_rollout(&subscription, true).await?;
    Ok(Json(Entity::new(&subscription, &entry)))
}
