//! The durable store: the one crate that knows the databases, sled and redb.
//!
//! Embedded broker, ledger and state keep their rows here, so that one [`brolly_core::Commit`]
//! covers them all. What a row means is known only to its author; this crate knows how rows are
//! named ([`keys`]), how they become durable together ([`Store`]) and the one table that everybody
//! shares, the messages ([`Messages`]).
//!
//! * `engine`: the databases behind a small port; `sync`: why a flush of sled really reaches the disk;
//! * `folder`: lock, which engine, marker of an unclean stop, the copy made before a recovery;
//! * `committer`: group commit on one thread; `steps`: the same, one step at a time, for a simulation;
//!   `copy`: all rows to another engine, while it rests; `backup`: a copy of all of it, while it runs.

mod backup;
mod blobs;
mod claims;
mod committer;
mod copy;
mod encoding;
mod engine;
mod error;
mod folder;
pub mod keys;
mod messages;
mod recent;
mod steps;
mod store;
mod sync;

pub use backup::{BackedUp, Backup};
pub use claims::Claim;
pub use copy::{Copied, Progress, copy};
pub use engine::{Bounds, Database, End, Engine, Row, Rows};
pub use error::Error;
pub use messages::{Identity, Listing, Messages, Parent, StoredMessage};
pub use steps::Steps;
pub use store::{Config, Stats, Store, VALUE_BYTES};
