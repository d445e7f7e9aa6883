//! Why a delivery is not handled, and how errors turn into that.

use std::{error::Error, fmt::Display, time::Duration};

/// Why a delivery is not handled. After either, nothing that the attempt wrote or published takes
/// effect; its log lines are kept.
///
/// This is no `std::error::Error`, so that `?` can turn every error into a [`Failure::Retry`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a failure has an effect only when the handler returns it"]
pub enum Failure {
    /// Not now: try again later. It counts as an attempt, unless it names a dependency, and after the
    /// last one the delivery becomes a dead letter.
    Retry {
        /// Why, for the people who read the ledger; up to 1,024 bytes are kept.
        reason: String,
        /// When to try again, at most a day from now, in whole milliseconds; none leaves it to the
        /// subscription's retry policy.
        delay: Option<Duration>,
        /// What the handler needs and could not reach, by a name of 1 to 100 bytes. The host holds back
        /// the deliveries that have named it until one is handled without naming it again.
        dependency: Option<String>,
    },
    /// Never: keep it as a dead letter.
    Reject {
        /// Why, for the people who read the ledger; up to 1,024 bytes are kept.
        reason: String,
    },
}

impl Failure {
    /// Try again when the subscription's retry policy says.
    pub fn retry(reason: impl Display) -> Self {
        Failure::Retry { reason: reason.to_string(), delay: None, dependency: None }
    }

    /// Something that the handler needs cannot be reached, such as the API of an insurer: try again
    /// when it can. No attempt is counted; the host holds back exactly the deliveries that have named
    /// this `dependency` (1 to 100 bytes), probes with one of them now and then, and lets the others
    /// go on slowly once a probe is handled without naming it.
    pub fn unreachable(dependency: impl Into<String>, reason: impl Display) -> Self {
        Failure::Retry { reason: reason.to_string(), delay: None, dependency: Some(dependency.into()) }
    }

    /// Try again after `delay`: at most a day, precise to the millisecond. The number of attempts
    /// is still the retry policy's.
    pub fn retry_after(reason: impl Display, delay: Duration) -> Self {
        Failure::Retry { reason: reason.to_string(), delay: Some(delay), dependency: None }
    }

    /// Never try again: the delivery becomes a dead letter, from which it can be replayed by hand.
    pub fn reject(reason: impl Display) -> Self {
        Failure::Reject { reason: reason.to_string() }
    }

    /// Why.
    #[must_use]
    pub fn reason(&self) -> &str {
        match self {
            Failure::Retry { reason, .. } | Failure::Reject { reason } => reason,
        }
    }

    /// Whether it is a rejection.
    #[must_use]
    pub fn is_reject(&self) -> bool {
        matches!(self, Failure::Reject { .. })
    }
}

/// An error that the handler did not foresee may pass: it is tried again.
impl<E: Error> From<E> for Failure {
    fn from(error: E) -> Self {
        let mut reason = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            reason.push_str(": ");
            reason.push_str(&error.to_string());
            cause = error.source();
        }
        Failure::Retry { reason, delay: None, dependency: None }
    }
}

/// Turns results and options into failures that say what they are about.
///
/// ```
/// use brolly_plugin::{Failure, OrFail};
///
/// fn cents(text: Option<&str>) -> Result<u64, Failure> {
///     text.or_reject("the amount")?.parse::<u64>().or_reject("the amount")
/// }
///
/// assert_eq!(cents(Some("12")), Ok(12));
/// assert_eq!(cents(Some("x")), Err(Failure::reject("the amount: invalid digit found in string")));
/// assert_eq!(cents(None), Err(Failure::reject("the amount is missing")));
/// ```
pub trait OrFail<T> {
    /// The value, or a rejection with the reason "what: error" or "what is missing".
    ///
    /// # Errors
    /// [`Failure::Reject`].
    fn or_reject(self, what: impl Display) -> Result<T, Failure>;

    /// The value, or a retry with the reason "what: error" or "what is missing".
    ///
    /// # Errors
    /// [`Failure::Retry`] without a delay of its own.
    fn or_retry(self, what: impl Display) -> Result<T, Failure>;
}

impl<T, E: Display> OrFail<T> for Result<T, E> {
    fn or_reject(self, what: impl Display) -> Result<T, Failure> {
        self.map_err(|error| Failure::reject(format_args!("{what}: {error}")))
    }

    fn or_retry(self, what: impl Display) -> Result<T, Failure> {
        self.map_err(|error| Failure::retry(format_args!("{what}: {error}")))
    }
}

impl<T> OrFail<T> for Option<T> {
    fn or_reject(self, what: impl Display) -> Result<T, Failure> {
        self.ok_or_else(|| Failure::reject(format_args!("{what} is missing")))
    }

    fn or_retry(self, what: impl Display) -> Result<T, Failure> {
        self.ok_or_else(|| Failure::retry(format_args!("{what} is missing")))
    }
}
