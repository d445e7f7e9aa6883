//! A guest of the draft of `wasi:messaging`, made with nothing of Brolly's: its bindings come from the
//! interfaces alone. Built to `target/test-plugins/messaging.wasm`.
//!
//! It writes a receipt for each order; the metadata `mode` names something else that it does instead.

#[cfg(target_arch = "wasm32")]
mod modes;

#[cfg(target_arch = "wasm32")]
#[allow(unsafe_code, missing_docs, clippy::all, reason = "generated: calls across the sandbox's border")]
mod bindings {
    wit_bindgen::generate!({
        path: "../../plugin-sdk/wit",
        world: "wasi:messaging/messaging-request-reply@0.2.0-draft",
        generate_all,
    });

    struct Receipts;

    impl exports::wasi::messaging::incoming_handler::Guest for Receipts {
        fn handle(message: wasi::messaging::types::Message) -> Result<(), wasi::messaging::types::Error> {
            crate::modes::handle(message)
        }
    }

    export!(Receipts);
}
