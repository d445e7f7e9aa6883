//! Revisions as entity tags, so that two operators do not overwrite each other.

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use brolly_core::Code;
use brolly_dispatch::Precondition;

use crate::problem::Problem;

/// The tag of a revision.
pub(crate) fn tag(revision: u64) -> String {
    format!("\"r{revision}\"")
}

/// The tag of a revision, as a header of an answer.
pub(crate) fn header(revision: u64) -> (HeaderName, HeaderValue) {
    (header::ETAG, HeaderValue::from_str(&tag(revision)).unwrap_or(HeaderValue::from_static("\"\"")))
}

/// Whether the caller of a GET has this revision already.
pub(crate) fn is_known(headers: &HeaderMap, revision: u64) -> bool {
    let wanted = tag(revision);
    let matches = |listed: &str| listed == "*" || listed.strip_prefix("W/").unwrap_or(listed) == wanted;
    headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.split(',').any(|listed| matches(listed.trim())))
}

/// What must hold for a change to be made. A tag of any other form than ours is one that no
/// revision has.
pub(crate) fn precondition(headers: &HeaderMap) -> Result<Precondition, Problem> {
    let one = |name: &HeaderName| {
        let mut values = headers.get_all(name).iter();
        let first = values.next().map(|value| value.to_str().unwrap_or_default().trim().to_owned());
        if values.next().is_some() || first.as_ref().is_some_and(|value| value.contains(',')) {
            return Err(invalid(format!("{name} has several tags; send one")));
        }
        Ok(first)
    };
    match (one(&header::IF_MATCH)?, one(&header::IF_NONE_MATCH)?) {
        (None, None) => Ok(Precondition::None),
        (Some(_), Some(_)) => Err(invalid("if-match and if-none-match exclude each other".to_owned())),
        (None, Some(value)) if value == "*" => Ok(Precondition::Absent),
        (None, Some(value)) => {
            Err(invalid(format!("if-none-match is {value:?}; a change takes only * there, for: it is new")))
        }
        (Some(value), None) if value == "*" => Ok(Precondition::Present),
        (Some(value), None) => {
            const NEVER: u64 = 0;
            let digits = value.strip_prefix("\"r").and_then(|rest| rest.strip_suffix('"'));
            Ok(Precondition::Revision(digits.and_then(|digits| digits.parse().ok()).unwrap_or(NEVER)))
        }
    }
}

fn invalid(detail: String) -> Problem {
    Problem::refused(Code::InvalidRequest, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(given: &[(HeaderName, &'static str)], expect: Option<Precondition>) {
        let mut headers = HeaderMap::new();
        for (name, value) in given {
            headers.append(name, HeaderValue::from_static(value));
        }
        assert_eq!(precondition(&headers).ok(), expect, "{given:?}");
    }

    #[test]
    fn preconditions() {
        use header::{IF_MATCH, IF_NONE_MATCH};
        check(&[], Some(Precondition::None));
        check(&[(IF_MATCH, "\"r7\"")], Some(Precondition::Revision(7)));
        check(&[(IF_MATCH, "*")], Some(Precondition::Present));
        check(&[(IF_NONE_MATCH, "*")], Some(Precondition::Absent));
        for never in ["\"x\"", "W/\"r7\"", "r7", "\"r-1\"", "\"r99999999999999999999999\"", ""] {
            check(&[(IF_MATCH, never)], Some(Precondition::Revision(0)));
        }
        check(&[(IF_NONE_MATCH, "\"r7\"")], None);
        check(&[(IF_MATCH, "\"r1\", \"r2\"")], None);
        check(&[(IF_MATCH, "\"r1\""), (IF_MATCH, "\"r2\"")], None);
        check(&[(IF_MATCH, "*"), (IF_NONE_MATCH, "*")], None);
    }

    #[test]
    fn a_known_revision_is_found_in_any_list() {
        for (value, known) in
            [("\"r7\"", true), ("W/\"r7\"", true), ("\"r1\", \"r7\"", true), ("*", true), ("\"r8\"", false)]
        {
            let headers = HeaderMap::from_iter([(header::IF_NONE_MATCH, HeaderValue::from_static(value))]);
            assert_eq!(is_known(&headers, 7), known, "{value}");
        }
    }
}
