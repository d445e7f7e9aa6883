//! Interfaces that a guest may import and never use: files, sockets, and the side of HTTP that is for
//! servers. A call stops the guest with a fault that says what there is instead.

use std::borrow::Cow;

use brolly_core::Fault;
use wasmtime::{
    StoreContextMut,
    component::{Component, Linker, LinkerInstance, ResourceType, Val, types::ComponentItem},
};

use crate::{attempt::Guest, fault::Stop};

/// The interfaces of WASI that are served, by package.
const OFFERED: [(&str, &[&str]); 5] = [
    ("wasi:io", &["error", "poll", "streams"]),
    ("wasi:clocks", &["wall-clock", "monotonic-clock"]),
    ("wasi:random", &["random", "insecure", "insecure-seed"]),
    ("wasi:http", &["types", "outgoing-handler"]),
    (
        "wasi:cli",
        &[
            "environment",
            "exit",
            "stdin",
            "stdout",
            "stderr",
            "terminal-input",
            "terminal-output",
            "terminal-stdin",
            "terminal-stdout",
            "terminal-stderr",
        ],
    ),
];

/// Packages of which anything may be imported, and what is said to whoever calls it.
const CLOSED: [(&str, &str); 2] = [
    ("wasi:filesystem", "no grant opens files to a handler; what it keeps lies in its state"),
    ("wasi:sockets", "no grant opens sockets to a handler; grants.http lets it send requests (wasi:http)"),
];

/// The handles that an interface of a closed package brings; others that it mentions come from elsewhere.
const HANDLES: [(&str, &[&str]); 5] = [
    ("wasi:filesystem/types", &["descriptor", "directory-entry-stream"]),
    ("wasi:sockets/network", &["network"]),
    ("wasi:sockets/udp", &["udp-socket", "incoming-datagram-stream", "outgoing-datagram-stream"]),
    ("wasi:sockets/tcp", &["tcp-socket"]),
    ("wasi:sockets/ip-name-lookup", &["resolve-address-stream"]),
];

/// What `wasi:http/types` has for servers.
const SERVERS_HANDLES: [&str; 3] = ["incoming-request", "response-outparam", "outgoing-response"];
const SERVERS_FUNCTIONS: [&str; 13] = [
    "[method]incoming-request.method",
    "[method]incoming-request.path-with-query",
    "[method]incoming-request.scheme",
    "[method]incoming-request.authority",
    "[method]incoming-request.headers",
    "[method]incoming-request.consume",
    "[method]response-outparam.send-informational",
    "[static]response-outparam.set",
    "[constructor]outgoing-response",
    "[method]outgoing-response.status-code",
    "[method]outgoing-response.set-status-code",
    "[method]outgoing-response.headers",
    "[method]outgoing-response.body",
];

/// A handle that nobody ever gets.
struct Denied;

/// The name of an interface in two parts, if it belongs to WASI 0.2.
fn of_wasi(name: &str) -> Option<(&str, &str)> {
    let (interface, version) = name.split_once('@')?;
    version.starts_with("0.2.").then_some(interface)?.split_once('/')
}

fn closed(name: &str) -> Option<&'static str> {
    let (package, _) = of_wasi(name)?;
    CLOSED.iter().find(|(closed, _)| *closed == package).map(|(_, says)| *says)
}

/// Whether a plugin may import an interface of WASI 0.2.
pub(crate) fn is_offered(name: &str) -> bool {
    let Some((package, interface)) = of_wasi(name) else { return false };
    let is_served =
        |(served, interfaces): &(&str, &[&str])| *served == package && interfaces.contains(&interface);
    OFFERED.iter().any(is_served) || closed(name).is_some()
}

/// The linker with what a component imports of the closed packages.
pub(crate) fn completed<'a>(
    linker: &'a Linker<Guest>,
    component: &Component,
) -> wasmtime::Result<Cow<'a, Linker<Guest>>> {
    let engine = linker.engine().clone();
    let mut linker = Cow::Borrowed(linker);
    for (name, import) in component.component_type().imports(&engine) {
        let (Some(says), ComponentItem::ComponentInstance(interface)) = (closed(name), import.ty) else {
            continue;
        };
        let mut instance = linker.to_mut().instance(name)?;
        let own = name.split('@').next().unwrap_or(name);
        let handles = HANDLES.iter().find(|(interface, _)| *interface == own).map_or(&[][..], |(_, own)| own);
        for (item, ty) in interface.exports(&engine) {
            match ty.ty {
                ComponentItem::ComponentFunc(_) => deny(&mut instance, name, item, says)?,
                ComponentItem::Resource(_) if handles.contains(&item) => {
                    instance.resource(item, ResourceType::host::<Denied>(), |_, _| Ok(()))?;
                }
                _ => {}
            }
        }
    }
    Ok(linker)
}

fn deny(
    instance: &mut LinkerInstance<'_, Guest>,
    interface: &str,
    function: &str,
    says: &'static str,
) -> wasmtime::Result<()> {
    if function == "get-directories" {
        return instance.func_new(function, |_, _, _, results| {
            if let Some(result) = results.first_mut() {
                *result = Val::List(Vec::new());
            }
            Ok(())
        });
    }
    let called = format!("{interface} {function}");
    instance.func_new(function, move |_: StoreContextMut<'_, Guest>, _, _, _| {
        Err(Stop::Fault(Fault::NotGranted(format!("it called {called}; {says}"))).into())
    })
}

/// Adds what `wasi:http/types` has for servers, which some compilers import with the rest.
pub(crate) fn add_servers_side(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let name = "wasi:http/types@0.2.12";
    let mut instance = linker.instance(name)?;
    for handle in SERVERS_HANDLES {
        instance.resource(handle, ResourceType::host::<Denied>(), |_, _| Ok(()))?;
    }
    for function in SERVERS_FUNCTIONS {
        deny(&mut instance, name, function, "a handler serves no requests; it is given deliveries")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_wasi_0_2_is_offered_and_of_it_what_is_named() {
        for name in [
            "wasi:io/poll@0.2.0",
            "wasi:http/types@0.2.12",
            "wasi:cli/stdout@0.2.3",
            "wasi:filesystem/types@0.2.6",
            "wasi:sockets/tcp@0.2.0",
        ] {
            assert!(is_offered(name), "{name}");
        }
        for name in [
            "wasi:io/poll",
            "wasi:io/poll@0.3.0",
            "wasi:io/poll@0.20.0",
            "wasi:http/incoming-handler@0.2.0",
            "wasi:clocks/timezone@0.2.0",
            "wasi:keyvalue/store@0.2.0-draft",
            "wasi:filesystemx/types@0.2.0",
            "evil:sockets/tcp@0.2.0",
        ] {
            assert!(!is_offered(name), "{name}");
        }
    }
}
