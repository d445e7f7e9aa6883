//! What the caller of a request may see of payloads: nothing, all but what is masked, or all.

use axum::{extract::FromRequestParts, http::request::Parts};
use brolly_core::Code;
use brolly_dispatch::Rights;
use serde_json::value::{RawValue, to_raw_value};

use crate::{
    Admin,
    auth::Caller,
    mask::Mask,
    problem::Problem,
    value::{self, Encoding},
};

/// What a caller may see of payloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sight {
    /// Nothing.
    Hidden,
    /// All but what topics and queues mask.
    Masked,
    /// All.
    Whole,
}

impl From<Rights> for Sight {
    fn from(rights: Rights) -> Self {
        match (rights.payloads, rights.unmasked) {
            (false, _) => Self::Hidden,
            (true, false) => Self::Masked,
            (true, true) => Self::Whole,
        }
    }
}

impl FromRequestParts<Admin> for Sight {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Admin) -> Result<Self, Problem> {
        let caller = parts.extensions.get::<Caller>();
        Ok(caller.map_or(Self::Hidden, |caller| caller.rights.into()))
    }
}

/// A payload as somebody may see it.
pub(crate) struct Seen {
    /// The value; null where it is hidden.
    pub value: Box<RawValue>,
    /// What the value is.
    pub encoding: Encoding,
    /// Whether a mask was laid over it.
    pub masked: bool,
}

impl Sight {
    /// Whether everything can be seen of a payload with this mask.
    pub(crate) fn is_whole(self, mask: &[String]) -> bool {
        match self {
            Self::Hidden => false,
            Self::Masked => mask.is_empty(),
            Self::Whole => true,
        }
    }

    /// Shows as much of a payload as may be seen.
    pub(crate) fn show(self, payload: &[u8], mask: &[String]) -> Result<Seen, Problem> {
        if self.is_whole(mask) {
            let (value, encoding) = value::shown(payload)?;
            return Ok(Seen { value, encoding, masked: false });
        }
        let seen = if self == Self::Masked { Mask::new(mask).over(payload) } else { None };
        Ok(match seen {
            Some(value) => Seen { value, encoding: Encoding::Json, masked: true },
            None => Seen { value: to_raw_value(&())?, encoding: Encoding::Hidden, masked: false },
        })
    }

    /// Refuses what shows payloads as they are, or puts others in their place.
    pub(crate) fn must_be_whole(self, mask: &[String], what: &str) -> Result<(), Problem> {
        if self.is_whole(mask) {
            return Ok(());
        }
        let right = if self == Self::Hidden { "payloads" } else { "unmasked" };
        let detail = format!("{what}, for which the token needs the right {right}");
        Err(Problem::refused(Code::Forbidden, detail))
    }

    /// Refuses a change that takes something out of a mask.
    pub(crate) fn may_unmask(self, before: &[String], after: &[String]) -> Result<(), Problem> {
        if self == Self::Whole || before.iter().all(|pointer| after.contains(pointer)) {
            return Ok(());
        }
        let detail = "this uncovers masked values, for which the token needs the right unmasked";
        Err(Problem::refused(Code::Forbidden, detail))
    }
}
