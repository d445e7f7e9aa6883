//! The component metadata of a core module, looked through before `wit-component` reads it.
//!
//! Used by `admit`. Its reader follows which package uses which by calling itself, so packages that use each other
//! in a circle, or a long chain of them, would end the host by its stack.

use std::collections::{BTreeMap, BTreeSet};

use brolly_core::Refusal;
use wasi_preview1_component_adapter_provider::WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER;
use wasmparser::{Parser, Payload};
use wit_parser::{Resolve, decoding::decode_world};

use crate::admit::refuse;

/// The most packages of interfaces that the metadata of a module may speak of. Plugins have two to ten.
const MAX_PACKAGES: usize = 100;

/// What each package uses, by their names.
type Uses = BTreeMap<String, BTreeSet<String>>;

/// Checks the packages of all metadata of a module, together with those that WASI's adapter brings along: they
/// are merged by their names.
///
/// # Errors
/// [`brolly_core::Code::InvalidPlugin`].
pub(crate) fn check_packages(module: &[u8]) -> Result<(), Refusal> {
    let mut uses = Uses::new();
    add(module, &mut uses);
    if uses.len() > MAX_PACKAGES {
        return Err(refuse(format!(
            "its metadata speaks of {} packages, the limit is {MAX_PACKAGES}; build it with the Brolly SDK",
            uses.len()
        )));
    }
    add(WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER, &mut uses);
    if is_circular(uses) {
        return Err(refuse(
            "the packages in its metadata use each other in a circle; build it with the Brolly SDK",
        ));
    }
    Ok(())
}

/// Adds the packages of a module. What cannot be read is told by who reads it next.
fn add(module: &[u8], uses: &mut Uses) {
    for payload in Parser::new(0).parse_all(module) {
        if let Ok(Payload::CustomSection(section)) = payload
            && section.name().starts_with("component-type")
            && let Ok((resolve, _)) = decode_world(section.data())
        {
            add_packages(&resolve, uses);
        }
    }
}

fn add_packages(resolve: &Resolve, uses: &mut Uses) {
    for (id, package) in &resolve.packages {
        let used = resolve.package_direct_deps(id).filter_map(|used| resolve.packages.get(used));
        let used = used.map(|package| package.name.to_string());
        uses.entry(package.name.to_string()).or_default().extend(used);
    }
}

/// Takes away packages that use none that is left, until there is none to take.
fn is_circular(mut uses: Uses) -> bool {
    loop {
        let is_free = |(name, used): (&String, &BTreeSet<String>)| {
            used.iter().all(|used| used == name || !uses.contains_key(used)).then(|| name.clone())
        };
        let free: Vec<String> = uses.iter().filter_map(is_free).collect();
        if free.is_empty() {
            return !uses.is_empty();
        }
        for name in free {
            uses.remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use wit_component::{StringEncoding, embed_component_metadata};

    use super::*;

    /// A module whose world imports from packages of others; with its own there are so many.
    fn module_of(packages: usize) -> Vec<u8> {
        let others = || 1..packages;
        let imports: String = others().map(|number| format!("import t:p{number}/i;\n")).collect();
        let bodies =
            others().map(|number| format!("package t:p{number} {{ interface i {{ f: func(); }} }}\n"));
        let text = format!("package t:main;\nworld w {{\n{imports}}}\n{}", bodies.collect::<String>());
        let mut resolve = Resolve::default();
        let package = resolve.push_source("main.wit", &text).unwrap();
        let world = resolve.select_world(&[package], Some("w")).unwrap();
        let mut wasm = wat::parse_str("(module)").unwrap();
        embed_component_metadata(&mut wasm, &resolve, world, StringEncoding::UTF8).unwrap();
        wasm
    }

    #[test]
    fn metadata_speaks_of_a_hundred_packages_and_no_more() {
        assert!(check_packages(&module_of(MAX_PACKAGES)).is_ok());
        let refusal = check_packages(&module_of(MAX_PACKAGES + 1)).unwrap_err();
        assert!(refusal.detail.contains("101 packages, the limit is 100"), "{refusal}");
    }

    #[test]
    fn a_circle_is_found_whatever_hangs_on_it() {
        let check = |pairs: &[(&str, &str)], expect: bool| {
            let mut uses = Uses::new();
            for (from, to) in pairs {
                uses.entry((*from).to_owned()).or_default().insert((*to).to_owned());
            }
            assert_eq!(is_circular(uses), expect, "{pairs:?}");
        };
        check(&[], false);
        check(&[("a", "b"), ("b", "c"), ("a", "c")], false);
        check(&[("a", "b"), ("b", "a")], true);
        check(&[("x", "a"), ("a", "b"), ("b", "c"), ("c", "a"), ("c", "y")], true);
    }
}
