//! Names and parameters of a request, with problems for those that cannot be understood.

use axum::{
    extract::{self, FromRequestParts, RawPathParams},
    http::request::Parts,
};
use brolly_core::{Code, Name};
use brolly_dispatch::Handle;
use serde::de::DeserializeOwned;

use crate::{Admin, auth::Caller, problem::Problem};

/// The name that a path ends with, or has in its middle: its first parameter.
pub(crate) struct NameInPath(pub Name);

impl<S: Send + Sync> FromRequestParts<S> for NameInPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let parameters = RawPathParams::from_request_parts(parts, state).await;
        let parameters = parameters.map_err(|error| invalid("path", &error.body_text()))?;
        let first = parameters.iter().next().map(|(_, value)| value).unwrap_or_default();
        Ok(Self(Name::new(first)?))
    }
}

/// The door to everything, in the name of whoever makes the request: what is changed through it stands
/// so in the audit log.
pub(crate) struct By(pub Handle);

impl FromRequestParts<Admin> for By {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, admin: &Admin) -> Result<Self, Problem> {
        let caller = parts.extensions.get::<Caller>();
        let caller =
            caller.ok_or_else(|| Problem::refused(Code::Unauthorized, "nobody makes this request"))?;
        Ok(Self(admin.handle.by(&caller.name)))
    }
}

/// All parameters of a path.
pub(crate) struct Path<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = extract::Path::<T>::from_request_parts(parts, state).await;
        path.map(|extract::Path(value)| Self(value)).map_err(|error| invalid("path", &error.body_text()))
    }
}

/// The parameters after the question mark.
pub(crate) struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query = extract::Query::<T>::from_request_parts(parts, state).await;
        query.map(|extract::Query(value)| Self(value)).map_err(|error| invalid("query", &error.body_text()))
    }
}

fn invalid(part: &str, why: &str) -> Problem {
    Problem::refused(Code::InvalidRequest, format!("the {part} cannot be understood: {why}"))
}
