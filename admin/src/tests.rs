//! The API as a client sees it, over the real handle, store and embedded broker; only the plugins
//! are scripted.

mod access;
mod alerts;
mod console;
mod definitions;
mod desk;
mod events;
mod house;
mod limits;
mod mending;
mod payloads;
mod plugins;
mod publishing;
mod serving;
mod session;
mod tls;
mod watching;
mod wrong;
