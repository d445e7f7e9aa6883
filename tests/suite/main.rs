//! The tests of the whole: the real binary, real plugins, real orders.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod alerts;
mod backup;
mod captures;
mod cli;
mod console;
mod crash;
mod desk;
mod embedded;
mod forgetting;
mod grants;
mod guide;
mod handlers;
mod hostile;
mod house_rules;
mod languages;
mod messaging;
mod openapi;
mod operators;
mod orders;
mod outage;
mod power_cut;
mod rabbit;
mod redis;
mod room;
mod samples;
mod servers;
mod shipping;
mod story;
mod swap;
mod telemetry;
mod tls;
mod upgrade;
mod watching;
mod wrong_requests;
