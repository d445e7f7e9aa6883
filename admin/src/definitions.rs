//! What all kinds of definitions have in common: how they are shown, put and deleted.

use axum::{
    Json,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use brolly_core::Name;
use brolly_dispatch::{Definition, Entry, Handle, Put};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    Admin, etag,
    page::{Items, Part},
    problem::Problem,
};

/// A definition with its name and its history.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Entity<T> {
    /// Its name.
    pub name: String,
    #[serde(flatten)]
    pub definition: T,
    /// Grows with every change; the header ETag has it too.
    pub revision: u64,
    /// When it was made, in milliseconds since 1970.
    pub created_at_ms: u64,
    /// When it was last changed, in milliseconds since 1970.
    pub changed_at_ms: u64,
}

impl<T: Clone> Entity<T> {
    pub fn new(name: &Name, entry: &Entry<T>) -> Self {
        Self {
            name: name.to_string(),
            definition: (*entry.value).clone(),
            revision: entry.revision,
            created_at_ms: entry.created_at.0,
            changed_at_ms: entry.changed_at.0,
        }
    }
}

/// Shows a definition that does not change but by a PUT, unless the caller has it already.
pub(crate) fn get<T: Definition>(
    admin: &Admin,
    name: &Name,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let entry = admin.handle.get::<T>(name)?;
    let tag = etag::header(entry.revision);
    if etag::is_known(headers, entry.revision) {
        return Ok((StatusCode::NOT_MODIFIED, [tag]).into_response());
    }
    Ok(([tag], Json(Entity::new(name, &entry))).into_response())
}

/// Lists definitions.
pub(crate) fn list<T: Definition>(admin: &Admin, part: &Part) -> Result<Json<Items<Entity<T>>>, Problem> {
    let page = admin.handle.list::<T>(part.after_name()?.as_ref(), part.limit()?);
    let items = page.items.iter().map(|(name, entry)| Entity::new(name, entry)).collect();
    Ok(Json(Items { items, next: page.next }))
}

/// Creates or replaces a topic, queue or route.
pub(crate) async fn put<T: Definition>(
    handle: &Handle,
    name: &Name,
    value: T,
    headers: &HeaderMap,
) -> Result<Put<T>, Problem> {
    Ok(handle.put(name, value, etag::precondition(headers)?).await?)
}

/// Answers a PUT with what stands now.
pub(crate) fn answer<T, B: Serialize>(put: &Put<T>, body: B) -> Response {
    let status = if put.created { StatusCode::CREATED } else { StatusCode::OK };
    (status, [etag::header(put.entry.revision)], Json(body)).into_response()
}

/// Deletes a definition.
pub(crate) async fn delete<T: Definition>(
    handle: &Handle,
    name: &Name,
    headers: &HeaderMap,
) -> Result<StatusCode, Problem> {
    handle.delete::<T>(name, etag::precondition(headers)?).await?;
    Ok(StatusCode::NO_CONTENT)
}
