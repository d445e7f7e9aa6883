//! Runs the subscriptions: takes deliveries, has them handled, and settles them; and the [`Handle`]
//! through which the admin sees and changes everything.
//!
//! Knows the ledger and the catalog, and brokers, handlers and plugins only through their ports.
//! `worker.rs` is the life of a message; `controller.rs` keeps one subscription running as it is
//! wanted; `supervisor.rs` has a controller for each that is wanted.

mod alerts;
mod backup;
mod breaker;
mod brokers;
mod captures;
mod controller;
mod dead_letters;
mod desk;
mod error;
mod feeds;
mod forgetting;
mod forward;
mod handle;
mod inspection;
mod latency;
mod meters;
mod plan;
mod progress;
mod publishing;
mod queues;
mod rates;
mod report;
mod rollout;
mod shipping;
mod status;
mod stepped;
mod streak;
mod supervisor;
mod tenure;
mod traces;
mod uploads;
mod versions;
mod vetting;
mod worker;

pub use brolly_alerts::{
    Alert, ChannelHealth, Failure, Notice, Status as AlertStatus, Wanted as WantedAlerts,
};
pub use brolly_capture::{Capture, Captures, Mode as RecordMode};
pub use brolly_catalog::{
    Action, Definition, Entry, Grant, Keys, Kind, Plugin, Precondition, Put, Record, Records, Rights, Role,
    Samples, Snapshot, Token, Version,
};
pub use brolly_ledger::{
    Attempt, AttemptOutcome, Cause, DeadLetter, DeliveryHistory, Found, Heard, History, Reason, Reasons,
    Search, Side, Status as DeliveryStatus, Swap, Tally,
};

pub use backup::BackupMade;
pub use breaker::Dependency;
pub use dead_letters::{DeskResult, Selection};
pub use desk::{Edit, Letter, Trial};
pub use error::Error;
pub use feeds::FeedStatus;
pub use handle::{Config, Dispatch, Handle, Page, Rooms};
pub use inspection::{Verdict, Waiting};
pub use latency::Percentiles;
pub use meters::NAMES;
pub use progress::{Arrival, Progress};
pub use queues::QueueCounts;
pub use report::{Example, Part, Report, Stage, Took};
pub use status::{State, Status};
pub use stepped::Stepped;
pub use traces::{TraceContext, Tracer};
pub use uploads::{Denied, Uploaded};
