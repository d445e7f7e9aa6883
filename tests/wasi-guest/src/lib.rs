//! A guest that calls WASI directly, through the bindings that the standard's own people publish: what a
//! program imports that was compiled for `wasm32-wasip2`. So the host is held to the standard's types, and
//! not only to its own reading of them. Built to `target/test-plugins/wasi.wasm`.
//!
//! `mode` names what it calls; see `calls`.

#[cfg(target_arch = "wasm32")]
mod calls;

use brolly_plugin::{Delivery, Failure, config, handler};

#[handler]
fn handle(_: Delivery) -> Result<(), Failure> {
    let mode = config::require("mode")?;
    run(&mode)
}

#[cfg(target_arch = "wasm32")]
fn run(mode: &str) -> Result<(), Failure> {
    calls::run(mode)
}

#[cfg(not(target_arch = "wasm32"))]
fn run(_: &str) -> Result<(), Failure> {
    Err(Failure::reject("there is no WASI here"))
}
