//! Lines for the ledger, kept with the attempt whatever its outcome.
//!
//! The macros take what `format!` takes. Lines beyond the subscription's `log_bytes` (by default
//! 16 KiB for each attempt) are dropped and counted.
//!
//! ```
//! use brolly_plugin::{Delivery, Failure, handler, log};
//!
//! #[handler]
//! fn handle(delivery: Delivery) -> Result<(), Failure> {
//!     log::debug!("attempt {}", delivery.attempt);
//!     if delivery.payload.is_empty() {
//!         log::warn!("the payload of {} is empty", delivery.id);
//!     }
//!     Ok(())
//! }
//! ```

use std::fmt;

use crate::host;

/// How important a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the usual five")]
pub enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

/// Writes a line; the macros of this module are the usual way to call it.
pub fn write(level: Level, text: fmt::Arguments<'_>) {
    match text.as_str() {
        Some(text) => host::log_write(level, text),
        None => host::log_write(level, &text.to_string()),
    }
}

#[doc(hidden)]
#[macro_export]
macro_rules! __log_trace {
    ($($argument:tt)+) => { $crate::log::write($crate::log::Level::Trace, ::core::format_args!($($argument)+)) };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __log_debug {
    ($($argument:tt)+) => { $crate::log::write($crate::log::Level::Debug, ::core::format_args!($($argument)+)) };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __log_info {
    ($($argument:tt)+) => { $crate::log::write($crate::log::Level::Info, ::core::format_args!($($argument)+)) };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __log_warn {
    ($($argument:tt)+) => { $crate::log::write($crate::log::Level::Warn, ::core::format_args!($($argument)+)) };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __log_error {
    ($($argument:tt)+) => { $crate::log::write($crate::log::Level::Error, ::core::format_args!($($argument)+)) };
}

#[doc(inline)]
pub use crate::{
    __log_debug as debug, __log_error as error, __log_info as info, __log_trace as trace, __log_warn as warn,
};
