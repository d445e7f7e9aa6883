//! Backups: copies of the data directory, made while the host runs.

use axum::{Json, http::StatusCode};
use brolly_dispatch::BackupMade;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{Admin, extract::By, problem::Problem};

/// A copy of the data directory.
#[derive(Debug, Serialize, ToSchema)]
struct BackupBody {
    /// Its name.
    name: String,
    /// Where it lies on the host's disk. It is a data directory: to restore it, start a host on it.
    dir: String,
    /// Rows that were copied.
    rows: u64,
    /// Bytes of rows and payloads that were copied.
    bytes: u64,
    /// Writes that came meanwhile, and are in it.
    writes: u64,
    /// How long it took, in milliseconds.
    took_ms: u64,
}

impl From<BackupMade> for BackupBody {
    fn from(made: BackupMade) -> Self {
        Self {
            name: made.name.to_string(),
            dir: made.dir.display().to_string(),
            rows: made.copied.rows,
            bytes: made.copied.bytes,
            writes: made.copied.writes,
            took_ms: made.took_ms,
        }
    }
}

pub(crate) fn router() -> OpenApiRouter<Admin> {
    OpenApiRouter::new().routes(routes!(post_backup))
}

/// Copies the data directory to a new folder below `backup.dir`, consistent as of one moment, while everything
/// goes on; answers when the copy is whole and durable. One is made at a time. Old copies are the operator's
/// to delete.
#[utoipa::path(post, path = "/backups", tag = "backups",
    responses((status = 201, body = BackupBody),
        (status = 503, body = Problem, content_type = "application/problem+json",
            description = "unavailable: another backup is being made, or there is too little free disk space")))]
async fn post_backup(By(handle): By) -> Result<(StatusCode, Json<BackupBody>), Problem> {
    Ok((StatusCode::CREATED, Json(handle.back_up().await?.into())))
}
