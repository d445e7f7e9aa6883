//! The audit log: who changed what, from what, to what.

use axum::{Extension, Json, extract::State};
use brolly_core::Name;
use brolly_dispatch::{Action, Record, Records, Role};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Admin,
    auth::Caller,
    extract::Query,
    page::{self, Items},
    problem::Problem,
};

/// What only those may see who may make tokens.
const TOKENS: &str = "token";

/// One change.
#[derive(Debug, Serialize, ToSchema)]
struct RecordBody {
    /// Its place in the log.
    number: u64,
    /// When, in milliseconds since 1970.
    at_ms: u64,
    /// The token of whoever made it; null for the host itself.
    by: Option<String>,
    /// What was done.
    action: Action,
    /// To which kind of thing: broker, topic, queue, route, plugin, subscription or token.
    kind: String,
    /// To which one.
    name: String,
    /// What was there before, without secrets; null if nothing was. Of what has more than 48 KiB as
    /// JSON, only the size: `{"omitted_bytes": …}`.
    #[schema(value_type = serde_json::Value)]
    before: Option<Value>,
    /// What is there since, or which dead letters were meant; null after a deletion.
    #[schema(value_type = serde_json::Value)]
    after: Option<Value>,
}

impl From<Record> for RecordBody {
    fn from(record: Record) -> Self {
        Self {
            number: record.number,
            at_ms: record.at.0,
            by: record.by.map(|name| name.to_string()),
            action: record.action,
            kind: record.kind,
            name: record.name.to_string(),
            before: record.before,
            after: record.after,
        }
    }
}

/// Which records are wanted; everything given must hold.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Wanted {
    /// Of changes to this kind of thing.
    kind: Option<String>,
    /// Of changes to things of this name.
    name: Option<String>,
    /// Of changes by this token.
    by: Option<String>,
    /// The most items: 1 to 1000, default 100.
    limit: Option<u32>,
    /// What the part before answered as `next`.
    after: Option<String>,
}

pub(crate) fn router() -> OpenApiRouter<Admin> {
    OpenApiRouter::new().routes(routes!(list_audit))
}

/// Lists changes, the latest first; the latest 100,000 are kept. Changes to tokens are shown to admins
/// only. A part may hold fewer items than asked for, even none, and still have a `next`.
#[utoipa::path(get, path = "/audit", tag = "audit", params(Wanted),
    responses((status = 200, body = Items<RecordBody>)))]
async fn list_audit(
    State(admin): State<Admin>,
    Extension(caller): Extension<Caller>,
    Query(wanted): Query<Wanted>,
) -> Result<Json<Items<RecordBody>>, Problem> {
    let (limit, before) = (page::limit(wanted.limit)?, page::number(wanted.after.as_deref())?);
    let records = Records {
        kind: wanted.kind,
        name: wanted.name.as_deref().map(Name::new).transpose()?,
        by: wanted.by.as_deref().map(Name::new).transpose()?,
        without: (caller.rights.role < Role::Admin).then_some(TOKENS),
    };
    let page = admin.handle.audit(records, before, limit).await?;
    Ok(Json(Items { items: page.items.into_iter().map(RecordBody::from).collect(), next: page.next }))
}
