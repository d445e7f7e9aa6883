//! Plugins: uploads, their versions, and who uses them.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::{Request, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use brolly_core::{About, Code, Digest, Name, Subscription};
use brolly_dispatch::{Denied, Entry, Keys, Plugin, Samples, Uploaded};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Admin,
    body::{Defined, media_type},
    etag,
    extract::{By, NameInPath, Path, Query},
    page::{Items, Part},
    problem::Problem,
};

/// Bytes of an upload: 64 MiB.
const UPLOAD_BYTES: usize = 64 * 1024 * 1024;

/// The header of an upload that has its signature.
const SIGNATURE: &str = "brolly-signature";

/// One upload.
#[derive(Debug, Serialize, ToSchema)]
struct VersionBody {
    /// `sha256:` and the hex digest of its bytes.
    digest: String,
    /// Size in bytes.
    size_bytes: u64,
    /// The world that it targets.
    world: String,
    /// The interfaces that it imports: what it can do at most.
    imports: Vec<String>,
    /// Milliseconds that compiling took.
    compile_ms: u64,
    /// What its authors say of it.
    about: About,
    /// The team that signed it, where the plugin asked for that.
    signed_by: Option<String>,
    /// When it came, in milliseconds since 1970.
    uploaded_at_ms: u64,
    /// The subscriptions that run it.
    used_by: Vec<String>,
}

/// A plugin with its versions, oldest first.
#[derive(Debug, Serialize, ToSchema)]
struct PluginBody {
    /// Its name.
    name: String,
    /// Its versions, oldest first.
    versions: Vec<VersionBody>,
    /// The teams whose signatures further versions need, with their public keys.
    keys: BTreeMap<String, String>,
    /// Whether versions must pass samples before they are used.
    has_samples: bool,
    /// Grows with every change.
    revision: u64,
    /// When it was made, in milliseconds since 1970.
    created_at_ms: u64,
    /// When it was last changed, in milliseconds since 1970.
    changed_at_ms: u64,
}

/// How an upload compares with what a subscription runs.
#[derive(Debug, Serialize, ToSchema)]
struct Compared {
    /// The subscription.
    subscription: String,
    /// The version that it runs.
    version: String,
    /// Imports that the upload has and that version has not.
    new_imports: Vec<String>,
}

/// An interface that the upload imports in vain.
#[derive(Debug, Serialize, ToSchema)]
struct DeniedBody {
    /// The interface.
    interface: String,
    /// The field of a subscription's `grants` that would allow it; null if nothing does.
    grant: Option<&'static str>,
    /// What it would do, and what becomes of an attempt that calls it.
    meaning: String,
}

/// What an upload asks for that a subscription's present version does not.
#[derive(Debug, Serialize, ToSchema)]
struct Needs {
    /// The subscription.
    subscription: String,
    /// What the upload wants to do, and whether this subscription grants it.
    words: Vec<String>,
}

/// The answer to an upload.
#[derive(Debug, Serialize, ToSchema)]
struct UploadBody {
    /// The plugin.
    plugin: String,
    /// `sha256:` and the hex digest of the bytes: the version.
    digest: String,
    /// Whether the plugin did not have this version before.
    created: bool,
    /// Size in bytes.
    size_bytes: u64,
    /// The world that it targets.
    world: String,
    /// The interfaces that it imports: what it can do at most.
    imports: Vec<String>,
    /// Milliseconds that compiling took; zero when it was compiled before.
    compile_ms: u64,
    /// What its authors say of it.
    about: About,
    /// The team that signed it, where the plugin asks for that.
    signed_by: Option<String>,
    /// How it compares with what the plugin's subscriptions run.
    compared: Vec<Compared>,
    /// Interfaces that it imports and that no subscription of the plugin grants: it runs, and an attempt
    /// that calls one of them ends with a fault that names the grant.
    denied: Vec<DeniedBody>,
    /// Subscriptions for which it asks for more than the version that they run.
    needs: Vec<Needs>,
    /// How many samples of the plugin it has passed; null where the plugin has none.
    samples: Option<usize>,
}

impl UploadBody {
    fn new(plugin: &Name, uploaded: Uploaded) -> Self {
        let compared = uploaded.compared.into_iter().map(|(subscription, version, new_imports)| Compared {
            subscription: subscription.to_string(),
            version: version.to_string(),
            new_imports,
        });
        let denied = uploaded.denied.into_iter();
        let denied =
            denied.map(|Denied { interface, grant, meaning }| DeniedBody { interface, grant, meaning });
        let needs = uploaded.needs.into_iter();
        let needs = needs.map(|(name, words)| Needs { subscription: name.to_string(), words });
        Self {
            plugin: plugin.to_string(),
            digest: uploaded.admission.digest.to_string(),
            created: uploaded.created,
            size_bytes: uploaded.admission.size_bytes,
            world: uploaded.admission.world,
            imports: uploaded.admission.imports,
            compile_ms: uploaded.admission.compile_ms,
            about: uploaded.admission.about,
            signed_by: uploaded.signed_by.map(|team| team.to_string()),
            compared: compared.collect(),
            denied: denied.collect(),
            needs: needs.collect(),
            samples: uploaded.samples,
        }
    }
}

type Users = Vec<(Name, Entry<Subscription>)>;

fn users(admin: &Admin) -> Users {
    admin.handle.list::<Subscription>(None, usize::MAX).items
}

fn shown(admin: &Admin, name: &Name, entry: &Entry<Plugin>, users: &Users) -> PluginBody {
    let used_by = |digest: &Digest| {
        let uses =
            |entry: &Entry<Subscription>| entry.value.uses(name) && entry.value.version == Some(*digest);
        users.iter().filter(|(_, entry)| uses(entry)).map(|(user, _)| user.to_string()).collect()
    };
    let versions = entry.value.versions.iter().map(|version| VersionBody {
        digest: version.admission.digest.to_string(),
        size_bytes: version.admission.size_bytes,
        world: version.admission.world.clone(),
        imports: version.admission.imports.clone(),
        compile_ms: version.admission.compile_ms,
        about: version.admission.about.clone(),
        signed_by: version.signed_by.as_ref().map(Name::to_string),
        uploaded_at_ms: version.uploaded_at.0,
        used_by: used_by(&version.admission.digest),
    });
    PluginBody {
        name: name.to_string(),
        versions: versions.collect(),
        keys: entry.value.keys.0.iter().map(|(team, key)| (team.to_string(), key.clone())).collect(),
        has_samples: admin.handle.get::<Samples>(name).is_ok(),
        revision: entry.revision,
        created_at_ms: entry.created_at.0,
        changed_at_ms: entry.changed_at.0,
    }
}

pub(crate) fn router() -> OpenApiRouter<Admin> {
    OpenApiRouter::new()
        .routes(routes!(list_plugins))
        .routes(routes!(get_plugin, put_plugin))
        .routes(routes!(upload_version))
        .routes(routes!(delete_version))
}

/// Lists plugins by name, with their versions and who uses them.
#[utoipa::path(get, path = "/plugins", tag = "plugins", params(Part),
    responses((status = 200, body = Items<PluginBody>)))]
async fn list_plugins(
    State(admin): State<Admin>,
    Query(part): Query<Part>,
) -> Result<Json<Items<PluginBody>>, Problem> {
    let page = admin.handle.list::<Plugin>(part.after_name()?.as_ref(), part.limit()?);
    let users = users(&admin);
    let items = page.items.iter().map(|(name, entry)| shown(&admin, name, entry, &users)).collect();
    Ok(Json(Items { items, next: page.next }))
}

/// Shows a plugin with its versions and who uses them.
#[utoipa::path(get, path = "/plugins/{plugin}", tag = "plugins", params(("plugin" = String, Path)),
    responses((status = 200, body = PluginBody, headers(("etag" = String))),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "not-found")))]
async fn get_plugin(State(admin): State<Admin>, NameInPath(name): NameInPath) -> Result<Response, Problem> {
    let entry = admin.handle.get::<Plugin>(&name)?;
    Ok(([etag::header(entry.revision)], Json(shown(&admin, &name, &entry, &users(&admin)))).into_response())
}

/// What a plugin asks of its versions.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PluginTerms {
    /// The teams whose signatures further versions need, each with its Ed25519 public key: 32 bytes in base 64. At
    /// most 16; with none, versions need no signature.
    keys: BTreeMap<String, String>,
}

/// Sets whose signatures further versions of a plugin need; it need not have any version yet. Versions that it has
/// stay as they are.
#[utoipa::path(put, path = "/plugins/{plugin}", tag = "plugins", request_body = PluginTerms,
    params(("plugin" = String, Path),
        ("if-match" = Option<String>, Header, description = "The ETag that it must have"),
        ("if-none-match" = Option<String>, Header, description = "`*`: it must not exist")),
    responses((status = 200, body = PluginBody, headers(("etag" = String))),
        (status = 412, body = Problem, content_type = "application/problem+json", description = "changed"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "invalid-definition")))]
async fn put_plugin(
    State(admin): State<Admin>,
    By(handle): By,
    NameInPath(name): NameInPath,
    headers: HeaderMap,
    Defined(terms): Defined<PluginTerms>,
) -> Result<Response, Problem> {
    let mut keys = Keys::default();
    for (team, key) in terms.keys {
        keys.0.insert(Name::new(&team)?, key);
    }
    let entry = handle.set_keys(&name, keys, etag::precondition(&headers)?).await?;
    Ok(([etag::header(entry.revision)], Json(shown(&admin, &name, &entry, &users(&admin)))).into_response())
}

/// The signature that an upload brings.
fn signature(headers: &HeaderMap) -> Result<Option<Vec<u8>>, Problem> {
    let Some(value) = headers.get(SIGNATURE) else { return Ok(None) };
    let bytes = BASE64_STANDARD.decode(value.as_bytes()).ok();
    let bytes = bytes.filter(|bytes| bytes.len() == 64).ok_or_else(|| {
        let detail = format!("the header {SIGNATURE} is no Ed25519 signature: it has 64 bytes, in base 64");
        Problem::refused(Code::InvalidSignature, detail)
    })?;
    Ok(Some(bytes))
}

/// Uploads a plugin version: a wasm component, or a core module with component metadata, of at most
/// 64 MiB. Uploading the same bytes again changes nothing. Where the plugin has keys, the header
/// `brolly-signature` has the Ed25519 signature of one of their teams over the bytes, in base 64. Where the plugin has
/// samples, the version must do what they expect.
#[utoipa::path(post, path = "/plugins/{plugin}/versions", tag = "plugins", 
    params(("plugin" = String, Path),
        ("brolly-signature" = Option<String>, Header, description = "Ed25519, in base 64")),
    request_body(content = Vec<u8>, content_type = "application/wasm"),
    responses((status = 200, body = UploadBody, description = "The plugin has this version already"),
        (status = 201, body = UploadBody, description = "Created"),
        (status = 413, body = Problem, content_type = "application/problem+json", description = "too-large"),
        (status = 422, body = Problem, content_type = "application/problem+json", 
            description = "invalid-plugin, invalid-signature, samples-failed")))]
async fn upload_version(
    State(admin): State<Admin>,
    By(handle): By,
    NameInPath(plugin): NameInPath,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    if media_type(&parts.headers).starts_with("multipart/") {
        return Err(Problem::media_type("the body is the bytes of the wasm file themselves, without a form"));
    }
    let held = admin.read(&parts.headers, body, UPLOAD_BYTES).await?;
    let signature = signature(&parts.headers)?;
    let uploaded = handle.upload(&plugin, held.bytes.to_vec(), signature.as_deref()).await?;
    let status = if uploaded.created { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(UploadBody::new(&plugin, uploaded))).into_response())
}

/// Deletes a plugin version that no subscription uses; with the last version goes the plugin.
#[utoipa::path(delete, path = "/plugins/{plugin}/versions/{digest}", tag = "plugins",
    params(("plugin" = String, Path), ("digest" = String, Path)),
    responses((status = 204, description = "Deleted"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "not-found"),
        (status = 409, body = Problem, content_type = "application/problem+json", description = "in-use")))]
async fn delete_version(
    By(handle): By,
    Path((plugin, digest)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    let (plugin, digest) = (Name::new(&plugin)?, digest.parse::<Digest>()?);
    handle.remove_version(&plugin, &digest).await?;
    Ok(StatusCode::NO_CONTENT)
}
