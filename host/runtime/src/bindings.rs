//! What the WIT contract generates for the host side: types, the imports to be served, the export
//! to be called. Used by this crate only; nothing generated leaves it.

#![allow(
    missing_docs,
    dead_code,
    clippy::all,
    clippy::too_many_lines,
    unsafe_code,
    reason = "generated from plugin-sdk/wit/handler.wit; its unsafe call skips a check done at load time"
)]

wasmtime::component::bindgen!({
    path: "../../plugin-sdk/wit",
    world: "handler",
    // Strings and payloads are lent to the guest instead of being copied for each call.
    ownership: Borrowing { duplicate_if_necessary: true },
    // A host function can stop the guest: that is how limits and grants are enforced.
    imports: { default: trappable },
});
