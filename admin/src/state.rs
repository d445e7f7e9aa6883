//! The state that plugins keep: read only.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Admin,
    extract::{NameInPath, Query},
    page::{self, Items},
    problem::Problem,
    sight::{Seen, Sight},
    value::Encoding,
};

/// Which entries are wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Entries {
    /// Keys that begin with this; default all.
    #[serde(default)]
    prefix: String,
    /// The most items: 1 to 1000, default 100.
    limit: Option<u32>,
    /// What the part before answered as `next`.
    after: Option<String>,
}

/// An entry of a plugin's state.
#[derive(Debug, Serialize, ToSchema)]
struct EntryBody {
    /// The key.
    key: String,
    /// The value: JSON where it is JSON, else a string where it is UTF-8, else `{"base64": "…"}`; null
    /// where the token may not see payloads.
    #[schema(value_type = serde_json::Value)]
    value: Box<RawValue>,
    /// Which of these it is.
    encoding: Encoding,
}

pub(crate) fn router() -> OpenApiRouter<Admin> {
    OpenApiRouter::new().routes(routes!(list_state))
}

/// Lists a subscription's state in the order of keys. Masks are of messages: no value of a state is masked.
#[utoipa::path(get, path = "/subscriptions/{subscription}/state", tag = "subscriptions",
    params(("subscription" = String, Path), Entries),
    responses((status = 200, body = Items<EntryBody>),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "not-found")))]
async fn list_state(
    State(admin): State<Admin>,
    sight: Sight,
    NameInPath(subscription): NameInPath,
    Query(wanted): Query<Entries>,
) -> Result<Json<Items<EntryBody>>, Problem> {
    let limit = page::limit(wanted.limit)?;
    let mut entries = admin.handle.state(&subscription, wanted.prefix, wanted.after, limit + 1).await?;
    let more = entries.len() > limit;
    entries.truncate(limit);
    let next = if more { entries.last().map(|entry| entry.key.clone()) } else { None };
    let items = entries.into_iter().map(|entry| {
        let Seen { value, encoding, .. } = sight.show(&entry.value, &[])?;
        Ok(EntryBody { key: entry.key, value, encoding })
    });
    Ok(Json(Items { items: items.collect::<Result<_, Problem>>()?, next }))
}
