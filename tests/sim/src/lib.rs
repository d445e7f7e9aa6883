//! The host on simulated time and a disk that loses power. One seed is one life: producers, workers,
//! operators, a broker elsewhere and power cuts, in an order that the seed says; the same seed lives the
//! same life again.
//!
//! Everything that decides about deliveries is the real code: worker, decisions, ledger, state, dead
//! letters, embedded broker, catalog, group commit. Not real are the disk (`disk`), the clock, the
//! handlers (`script`), the broker elsewhere (`far`), and that things happen at the same time: instead,
//! the code under test is interrupted where others would go on beside it (`world`).
//!
//! What must hold stands in `model`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on says where and stops"
)]

mod act;
mod disk;
mod far;
mod host;
mod life;
mod model;
mod names;
mod script;
mod states;
mod time;
mod trace;
mod world;

pub use life::{Life, Simulation};
pub use states::{Explored, Start};
