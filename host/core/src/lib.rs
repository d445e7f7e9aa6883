//! The words of Brolly, its ports, and every decision that needs no I/O.
//!
//! Everybody depends on this crate; it depends on no broker, no runtime, no disk and no clock.
//! * words: [`Name`], [`Message`], [`Delivery`], the definitions ([`Topic`], [`Queue`], [`Route`],
//!   [`Subscription`]) and what handlers say ([`Outcome`]) or suffer ([`Fault`]);
//! * decisions, pure: [`Pattern`], [`Filter`] and [`Router`] (where does a message go), [`decide`]
//!   (what becomes of a delivery);
//! * ports: [`Broker`] with its [`Source`], [`Handler`] with its [`Plugins`], [`Clock`], [`Outside`].

mod alert;
mod broker;
mod channel;
mod clock;
mod commit;
mod decide;
mod definition;
mod endpoint;
mod feed;
mod filter;
mod grants;
mod handler;
mod message;
mod name;
mod outside;
mod pattern;
mod refusal;
mod rollout;
mod router;
mod subscription;

pub use alert::{AlertRule, Quiet, Watched};
pub use broker::{
    Accepted, Broker, BrokerError, Brokers, Connection, Consume, Counts, Delivery, Health, Lease, Moved,
    Origin, Proposal, Publication, Source, Stop, Thing,
};
pub use channel::{Channel, Chat, Secret, Sms, SmsAlibaba, SmsHttp, SmsTwilio, Smtp, Webhook};
pub use clock::{Clock, SystemClock, Timestamp, whole_ms};
pub use commit::{Afterwards, Commit, Write};
pub use decide::{Decision, RetryPolicy, Settlement, decide};
pub use definition::{Contact, Owner, Queue, Retention, Route, Topic, defaults};
pub use endpoint::{Address, BrokerDefinition};
pub use feed::{Feed, Gap, Listener, Seat, Standing};
pub use filter::{Filter, FilterInput};
pub use grants::{Grants, HostRule, HttpGrant, HttpTarget};
pub use handler::{
    About, Admission, Call, Effects, Fault, Handled, Handler, LogLevel, LogLine, Outcome, Outgoing,
    PluginError, Plugins, StateEntry, StateReader, StateUnavailable, Verdict,
};
pub use message::{Message, MessageId, NewMessage, limits as message_limits};
pub use name::{Digest, Name};
pub use outside::{
    HttpError, HttpFailure, HttpRequest, HttpResponse, HttpTerms, Nowhere, Outside, Unreachable,
    WithoutNetwork,
};
pub use pattern::Pattern;
pub use refusal::{Code, Refusal};
pub use rollout::{Guard, Judgement, Mode, Rollout, Rules, Score};
pub use router::{Router, Routing};
pub use subscription::{Forward, HandledBy, Limits, Order, Rate, Reuse, Subscription, Terms};
