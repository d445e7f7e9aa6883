//! The subscription's configuration: names and texts that the operator sets.
//!
//! A mistake in it is a [`Failure::Retry`], not a rejection: the message is sound, and it is handled
//! as soon as the operator has mended the configuration. It becomes a dead letter, to be replayed,
//! only when its attempts run out first.
//!
//! ```
//! use brolly_plugin::{Failure, config};
//!
//! fn percent() -> Result<u32, Failure> {
//!     Ok(config::parse("percent")?.unwrap_or(15))
//! }
//! # use brolly_plugin::{testing::Harness, Delivery};
//! # let handle = |_: Delivery| percent().map(drop);
//! # Harness::new().delivery("").run(handle).assert_ack();
//! # let attempt = Harness::new().config("percent", "x").delivery("").run(handle);
//! # attempt.assert_retry("configuration percent is \"x\": invalid digit found in string");
//! ```

use std::{fmt::Display, str::FromStr};

use crate::{Failure, OrFail, host};

/// The value under a name, or none.
#[must_use]
pub fn get(name: &str) -> Option<String> {
    host::config_get(name)
}

/// The value under a name that must be there.
///
/// # Errors
/// [`Failure::Retry`] that says which name is missing.
pub fn require(name: &str) -> Result<String, Failure> {
    get(name).or_retry(format_args!("configuration {name}"))
}

/// The value under a name, read as a `T`; none if it is not set.
///
/// # Errors
/// [`Failure::Retry`] that shows the name, the value and what is wrong with it.
pub fn parse<T>(name: &str) -> Result<Option<T>, Failure>
where
    T: FromStr,
    T::Err: Display,
{
    match get(name) {
        None => Ok(None),
        Some(text) => text.parse().map(Some).or_retry(format_args!("configuration {name} is {text:?}")),
    }
}
