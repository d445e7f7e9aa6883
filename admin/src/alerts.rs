//! Alerts: which rules of which queues are broken, since when, and whom that was told to.

use axum::{Json, extract::State};
use brolly_core::{Code, Name, Owner, Watched};
use brolly_dispatch::{Alert, AlertStatus, Notice, WantedAlerts};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Admin,
    extract::{By, Path, Query},
    page::{self, Items},
    problem::Problem,
};

/// An alert: a rule that is or was broken.
#[derive(Debug, Serialize, ToSchema)]
struct AlertBody {
    /// Its number; later ones have greater numbers.
    id: String,
    /// The queue.
    queue: String,
    /// The rule's name among those of the queue.
    rule: String,
    /// What the rule looks at.
    when: Watched,
    /// What is too much.
    above: u64,
    /// The value when it was last written down; null if it could not be measured.
    value: Option<u64>,
    /// `pending` (not yet for as long as it must be), `firing`, `recovered`, or `ended` (its rule was removed).
    status: &'static str,
    /// Since when the value was too much, in milliseconds since 1970.
    since_ms: u64,
    /// When it had been for long enough, in milliseconds since 1970.
    fired_at_ms: Option<u64>,
    /// When it was over, in milliseconds since 1970.
    ended_at_ms: Option<u64>,
    /// When people are told next, in milliseconds since 1970; in quiet hours later.
    next_notice_at_ms: Option<u64>,
    /// Who has seen it, so that it is not repeated.
    acknowledged: Option<AcknowledgedBody>,
    /// Whose queue it is.
    owners: Vec<Owner>,
    /// The channels by which they are told.
    channels: Vec<String>,
    /// Whom it was told to, the oldest first: all that are not through yet, and the latest 20 that are.
    notices: Vec<NoticeBody>,
}

/// Who has seen an alert.
#[derive(Debug, Serialize, ToSchema)]
struct AcknowledgedBody {
    /// The token.
    by: Option<String>,
    /// When, in milliseconds since 1970.
    at_ms: u64,
}

/// Something that somebody was told.
#[derive(Debug, Serialize, ToSchema)]
struct NoticeBody {
    /// `firing`, `repeat` or `recovery`.
    kind: &'static str,
    /// By which channel.
    channel: String,
    /// To which address or phone; empty for a webhook.
    to: String,
    /// When it was decided, in milliseconds since 1970.
    queued_at_ms: u64,
    /// When the other side took it, in milliseconds since 1970.
    sent_at_ms: Option<u64>,
    /// How often it was tried.
    attempts: u32,
    /// When it is tried next, in milliseconds since 1970.
    retry_at_ms: Option<u64>,
    /// Whether it is not tried any more: a day has passed.
    given_up: bool,
    /// Why it did not get through the last time.
    error: Option<String>,
}

impl From<Notice> for NoticeBody {
    fn from(notice: Notice) -> Self {
        Self {
            kind: notice.occasion.as_str(),
            channel: notice.channel.to_string(),
            to: notice.to,
            queued_at_ms: notice.at.0,
            sent_at_ms: notice.sent_at.map(|at| at.0),
            attempts: notice.attempts,
            retry_at_ms: notice.retry_at.filter(|_| notice.sent_at.is_none()).map(|at| at.0),
            given_up: notice.given_up,
            error: notice.error,
        }
    }
}

impl From<Alert> for AlertBody {
    fn from(alert: Alert) -> Self {
        Self {
            id: alert.number.to_string(),
            queue: alert.queue.to_string(),
            rule: alert.rule,
            when: alert.when,
            above: alert.above,
            value: alert.value,
            status: alert.status.as_str(),
            since_ms: alert.since.0,
            fired_at_ms: alert.fired_at.map(|at| at.0),
            ended_at_ms: alert.ended_at.map(|at| at.0),
            next_notice_at_ms: alert.next_notice_at.map(|at| at.0),
            acknowledged: alert
                .acknowledged
                .map(|seen| AcknowledgedBody { by: seen.by.map(|name| name.to_string()), at_ms: seen.at.0 }),
            owners: alert.owners,
            channels: alert.channels.iter().map(Name::to_string).collect(),
            notices: alert.notices.into_iter().map(NoticeBody::from).collect(),
        }
    }
}

/// Which alerts are wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Selection {
    /// Only those that stand so: `pending`, `firing`, `recovered` or `ended`.
    #[param(value_type = Option<String>)]
    status: Option<AlertStatus>,
    /// Only those of this queue.
    #[param(value_type = Option<String>)]
    queue: Option<Name>,
    /// The most items: 1 to 1000, default 100.
    limit: Option<u32>,
    /// What the part before answered as `next`.
    after: Option<String>,
}

pub(crate) fn router() -> OpenApiRouter<Admin> {
    OpenApiRouter::new()
        .routes(routes!(list_alerts))
        .routes(routes!(get_alert))
        .routes(routes!(acknowledge_alert))
}

fn number(id: &str) -> Result<u64, Problem> {
    id.parse().map_err(|_| {
        let detail = format!("there is no alert {id:?}; GET /api/v1/alerts lists them");
        Problem::refused(Code::NotFound, detail)
    })
}

/// Lists alerts, those that are over included, the latest first.
#[utoipa::path(get, path = "/alerts", tag = "alerts", params(Selection),
    responses((status = 200, body = Items<AlertBody>)))]
async fn list_alerts(
    State(admin): State<Admin>,
    Query(selection): Query<Selection>,
) -> Result<Json<Items<AlertBody>>, Problem> {
    let Selection { status, queue, limit, after } = selection;
    let before = page::number(after.as_deref())?;
    let page = admin.handle.list_alerts(WantedAlerts { status, queue }, before, page::limit(limit)?).await?;
    Ok(Json(Items { items: page.items.into_iter().map(AlertBody::from).collect(), next: page.next }))
}

/// Shows an alert.
#[utoipa::path(get, path = "/alerts/{alert}", tag = "alerts", params(("alert" = String, Path)),
    responses((status = 200, body = AlertBody),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "not-found")))]
async fn get_alert(State(admin): State<Admin>, Path(id): Path<String>) -> Result<Json<AlertBody>, Problem> {
    Ok(Json(admin.handle.alert(number(&id)?).await?.into()))
}

/// Notes that somebody has seen an alert that is not over: it is not repeated, and still told to be over.
#[utoipa::path(post, path = "/alerts/{alert}/acknowledge", tag = "alerts", params(("alert" = String, Path)),
    responses((status = 200, body = AlertBody),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "not-found: there is none, or it is over")))]
async fn acknowledge_alert(By(handle): By, Path(id): Path<String>) -> Result<Json<AlertBody>, Problem> {
    Ok(Json(handle.acknowledge_alert(number(&id)?).await?.into()))
}
