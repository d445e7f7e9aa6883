//! Is it a plugin? From uploaded bytes to a component that fits the contract, or to a sentence that
//! says what is wrong with them and how to mend it. Used by `library`; no bytes make it panic.

use std::{
    borrow::Cow,
    panic::{AssertUnwindSafe, catch_unwind},
};

use brolly_core::{Code, Refusal};
use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
};
use wasmparser::{Parser, Payload};
use wasmtime::{
    Engine,
    component::{Component, Linker, types::ComponentItem},
};
use wit_component::ComponentEncoder;

use crate::{
    attempt::Guest,
    fault::{MAX_REASON_BYTES, cut},
    metadata::check_packages,
    wasi,
    world::{MESSAGING_WORLD, Pre, WORLD, World},
};

/// The largest upload in bytes: 64 MiB.
pub const MAX_UPLOAD_BYTES: usize = 64 << 20;
/// The package of the contract without its version, as it begins the names of its interfaces.
const PACKAGE: &str = "brolly:plugin/";
/// The interfaces that the contract offers.
const INTERFACES: &str = "brolly:plugin/{log,state,publish,config}@0.1.0";

/// The most components that a component may instantiate, in all its nested components together.
///
/// Each level of nesting can double the instances of the one below, and compiling unfolds them all:
/// thirty levels in two kilobytes would take the host's memory. This many unfold to some hundred
/// thousand at worst. The tools of all languages make fewer than ten.
const MAX_NESTED_INSTANCES: usize = 32;

const MODULE: [u8; 4] = [1, 0, 0, 0];
const COMPONENT: [u8; 4] = [0x0d, 0, 1, 0];

/// The component in an upload: the upload itself, or what a core module with component metadata is
/// encoded to. The same bytes give the same component.
///
/// # Errors
/// [`Code::TooLarge`] beyond [`MAX_UPLOAD_BYTES`], [`Code::InvalidPlugin`] for what is neither.
pub fn component(wasm: &[u8]) -> Result<Cow<'_, [u8]>, Refusal> {
    if wasm.len() > MAX_UPLOAD_BYTES {
        return Err(Refusal::new(
            Code::TooLarge,
            format!(
                "the plugin has {} bytes, the limit is {MAX_UPLOAD_BYTES}; build it in release mode and \
                 strip its debug information (wasm-tools strip)",
                wasm.len()
            ),
        ));
    }
    let Some(rest) = wasm.strip_prefix(b"\0asm") else {
        return Err(refuse(match wasm.iter().find(|byte| !byte.is_ascii_whitespace()) {
            None => "the upload is empty; send the bytes of a .wasm file as the body",
            Some(b'(' | b';') => {
                "it is not a WebAssembly binary; if it is the text format, translate it first (wasm-tools \
                 parse)"
            }
            Some(_) => {
                "it is not WebAssembly: it does not begin with the bytes \\0asm; send the bytes of a \
                 .wasm file as the body, as they are, without an encoding or a form around them"
            }
        }));
    };
    match rest.first_chunk() {
        Some(&COMPONENT) => Ok(Cow::Borrowed(wasm)),
        Some(&MODULE) => guarded(|| encode(wasm)).map(Cow::Owned),
        Some(other) => Err(refuse(format!(
            "it is WebAssembly of an unknown version ({other:02x?}); a component or a core module is needed"
        ))),
        None => Err(refuse(format!("it is cut off after {} bytes; upload it again", wasm.len()))),
    }
}

/// Makes a component from a core module.
fn encode(wasm: &[u8]) -> Result<Vec<u8>, Refusal> {
    // The reader of the metadata trusts the sizes that the sections state.
    if let Some(error) = Parser::new(0).parse_all(wasm).find_map(Result::err) {
        return Err(refuse(format!("it is damaged or cut off: {error}; upload it again")));
    }
    check_packages(wasm)?;
    let (stripped, _) = wit_component::metadata::decode(wasm)
        .map_err(|error| refuse(format!("it is no valid core module: {error:#}")))?;
    if stripped.is_none() {
        return Err(refuse(
            "it is a core module without component metadata; build it with the Brolly SDK, or make a \
             component of it that targets the world brolly:plugin/handler (wasm-tools component embed, \
             wasm-tools component new)",
        ));
    }
    // A module for WASI's first version is brought to the second, as its own tools would.
    let adapted = |encoder: ComponentEncoder| {
        encoder.adapter(WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER)
    };
    let encoder = ComponentEncoder::default().module(wasm).and_then(adapted);
    let encoded = encoder.and_then(|encoder| encoder.validate(true).encode());
    encoded.map_err(|error| {
        refuse(format!(
            "no component can be made of this core module: {error:#}; build it with the Brolly SDK for \
             the target wasm32-unknown-unknown, which leaves no imports but those of the world {WORLD} and \
             of WASI"
        ))
    })
}

/// Compiles a component.
pub(crate) fn compile(engine: &Engine, component: &[u8]) -> Result<Component, Refusal> {
    guarded(|| {
        check_nesting(component)?;
        Component::from_binary(engine, component)
            .map_err(|error| refuse(format!("it is no valid component, or not one for this host: {error:#}")))
    })
}

/// Refuses a component that unfolds to more than the compiler could bear.
fn check_nesting(component: &[u8]) -> Result<(), Refusal> {
    let mut instances = 0;
    for payload in Parser::new(0).parse_all(component) {
        // What cannot be parsed is for the compiler to say.
        let Ok(payload) = payload else { return Ok(()) };
        if let Payload::ComponentInstanceSection(section) = payload {
            let made =
                |instance: &_| matches!(instance, Ok(wasmparser::ComponentInstance::Instantiate { .. }));
            instances += section.into_iter().filter(made).count();
        }
    }
    if instances > MAX_NESTED_INSTANCES {
        return Err(refuse(format!(
            "it instantiates {instances} nested components, the limit is {MAX_NESTED_INSTANCES}; compose \
             it of fewer"
        )));
    }
    Ok(())
}

/// Holds a component against the contract: the linked component and the interfaces it imports.
pub(crate) fn link(linker: &Linker<Guest>, component: &Component) -> Result<(Pre, Vec<String>), Refusal> {
    let imports = imports(linker.engine(), component)?;
    let linker = wasi::completed(linker, component)
        .map_err(|error| refuse(format!("an import of WASI cannot be offered: {error:#}")))?;
    let world = World::of(linker.engine(), component).map_err(refuse)?;
    let name = world.name();
    let pre = linker.instantiate_pre(component).map_err(|error| {
        refuse(format!("an import does not have the type that the world {name} gives it: {error:#}"))
    })?;
    let pre = world.pre(pre).map_err(|error| {
        refuse(format!(
            "its export `handle` does not have the type that the world {name} gives it: {error:#}; build it \
             with the contract of this version"
        ))
    })?;
    Ok((pre, imports))
}

/// The names of the interfaces that a component can call, sorted.
fn imports(engine: &Engine, component: &Component) -> Result<Vec<String>, Refusal> {
    let mut names = Vec::new();
    let ty = component.component_type();
    for (name, import) in ty.imports(engine) {
        let ComponentItem::ComponentInstance(interface) = import.ty else {
            // A type that the world uses by name carries no authority.
            if matches!(import.ty, ComponentItem::Type(_)) {
                continue;
            }
            return Err(unknown_import(name));
        };
        if !name.starts_with(PACKAGE) && !wasi::is_offered(name) {
            return Err(unknown_import(name));
        }
        let callable = |item| matches!(item, ComponentItem::ComponentFunc(_));
        if interface.exports(engine).any(|(_, export)| callable(export.ty)) {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn unknown_import(name: &str) -> Refusal {
    refuse(format!(
        "it imports {name:?}, which this host does not offer; a plugin may import {INTERFACES}, and of WASI \
         0.2 what a program for a command line or a client of HTTP does (wasi:cli, wasi:io, wasi:clocks, \
         wasi:random, wasi:filesystem, wasi:sockets, wasi:http), or what the world {MESSAGING_WORLD} has. Build \
         it with the Brolly SDK"
    ))
}

pub(crate) fn refuse(detail: impl Into<String>) -> Refusal {
    Refusal::new(Code::InvalidPlugin, cut(detail.into(), 2 * MAX_REASON_BYTES))
}

/// Runs a step over hostile bytes. The libraries below are fuzzed and return errors; should one
/// panic all the same, it is the upload that is refused.
fn guarded<T>(step: impl FnOnce() -> Result<T, Refusal>) -> Result<T, Refusal> {
    catch_unwind(AssertUnwindSafe(step)).unwrap_or_else(|_| {
        Err(refuse("it could not be read: its structure breaks the reader; build it anew"))
    })
}
