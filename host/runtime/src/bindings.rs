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

/// The same for the standard interfaces that a guest may import. Their handles are types of ours.
pub(crate) mod standard {
    wasmtime::component::bindgen!({
        path: "../../plugin-sdk/wit",
        world: "standard",
        imports: { default: trappable },
        with: {
            "wasi:io/error.error": crate::wasi::io::IoError,
            "wasi:io/poll.pollable": crate::wasi::io::Pollable,
            "wasi:io/streams.input-stream": crate::wasi::io::InputStream,
            "wasi:io/streams.output-stream": crate::wasi::io::OutputStream,
            "wasi:http/types.fields": crate::wasi::http::Fields,
            "wasi:http/types.outgoing-request": crate::wasi::http::Request,
            "wasi:http/types.outgoing-body": crate::wasi::http::RequestBody,
            "wasi:http/types.request-options": crate::wasi::http::Options,
            "wasi:http/types.future-incoming-response": crate::wasi::http::FutureAnswer,
            "wasi:http/types.incoming-response": crate::wasi::http::Answer,
            "wasi:http/types.incoming-body": crate::wasi::http::AnswerBody,
            "wasi:http/types.future-trailers": crate::wasi::http::FutureTrailers,
        },
    });
}

/// The same for the second world, the draft of `wasi:messaging`. Its larger half is taken: what a guest of
/// `messaging-core` does not import is not asked for.
pub(crate) mod messaging {
    wasmtime::component::bindgen!({
        path: "../../plugin-sdk/wit",
        world: "wasi:messaging/messaging-request-reply@0.2.0-draft",
        imports: { default: trappable },
        with: {
            "wasi:messaging/types.client": crate::wasi::messaging::Client,
            "wasi:messaging/types.message": crate::wasi::messaging::Message,
            "wasi:messaging/request-reply.request-options": crate::wasi::messaging::Never,
        },
    });
}
