//! Lists: a part at a time, and where to go on.

use brolly_core::{Code, Name};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::problem::Problem;

/// Which part of a list is wanted.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Part {
    /// The most items: 1 to 1000, default 100.
    pub limit: Option<u32>,
    /// What the part before answered as `next`.
    pub after: Option<String>,
}

impl Part {
    /// The most items.
    pub fn limit(&self) -> Result<usize, Problem> {
        limit(self.limit)
    }

    /// The name to begin after.
    pub fn after_name(&self) -> Result<Option<Name>, Problem> {
        Ok(self.after.as_deref().map(Name::new).transpose()?)
    }

    /// The number to begin after.
    pub fn after_number(&self) -> Result<Option<u64>, Problem> {
        number(self.after.as_deref())
    }
}

/// Reads a place in a listing that has numbers for its places.
pub(crate) fn number(after: Option<&str>) -> Result<Option<u64>, Problem> {
    let number = after.map(str::parse).transpose();
    number.map_err(|_| {
        let detail = format!("after is {:?}, which is no `next` of this list", after.unwrap_or_default());
        Problem::refused(Code::InvalidRequest, detail)
    })
}

/// Checks the most items that are asked for.
pub(crate) fn limit(asked: Option<u32>) -> Result<usize, Problem> {
    match asked {
        None => Ok(100),
        Some(limit @ 1..=1000) => Ok(limit as usize),
        Some(limit) => {
            Err(Problem::refused(Code::InvalidRequest, format!("limit is {limit}, allowed are 1 to 1000")))
        }
    }
}

/// A part of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Items<T> {
    /// The items.
    pub items: Vec<T>,
    /// What to give as `after` for the next part; null at the end.
    pub next: Option<String>,
}
