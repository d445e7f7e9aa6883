//! What a module or component says of itself: its name section, and the custom sections `version`,
//! `description` and `authors`, as the tools of the Bytecode Alliance write and show them. Of a component
//! made of others only its own sections count. Used by `runtime`; no bytes make it panic.

use brolly_core::About;
use wasmparser::{
    BinaryReader, ComponentName, ComponentNameSectionReader, Name, NameSectionReader, Parser, Payload,
};

use crate::fault::cut;

/// What it says; what cannot be read says nothing.
pub(crate) fn about(wasm: &[u8]) -> About {
    let mut about = About::default();
    let mut depth = 0_u32;
    for payload in Parser::new(0).parse_all(wasm) {
        match payload {
            Ok(Payload::Version { .. }) => depth += 1,
            Ok(Payload::End(_)) => depth = depth.saturating_sub(1),
            Ok(Payload::CustomSection(section)) if depth == 1 => {
                let data = section.data();
                match section.name() {
                    "version" => about.version = text(data),
                    "description" => about.description = text(data),
                    "authors" => about.authors = text(data),
                    "name" => about.name = of_module(data),
                    "component-name" => about.name = of_component(data),
                    _ => {}
                }
            }
            Ok(_) => {}
            Err(_) => break,
        }
    }
    about
}

fn of_module(data: &[u8]) -> Option<String> {
    NameSectionReader::new(BinaryReader::new(data, 0)).into_iter().find_map(|part| match part {
        Ok(Name::Module { name, .. }) => text(name.as_bytes()),
        _ => None,
    })
}

fn of_component(data: &[u8]) -> Option<String> {
    ComponentNameSectionReader::new(BinaryReader::new(data, 0)).into_iter().find_map(|part| match part {
        Ok(ComponentName::Component { name, .. }) => text(name.as_bytes()),
        _ => None,
    })
}

/// A text for one line, if it is one.
fn text(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?.replace(char::is_control, " ");
    let text = cut(text.trim().to_owned(), About::TEXT_BYTES);
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_read_and_only_of_the_whole() {
        let long = "d".repeat(About::TEXT_BYTES + 1);
        let component = wat::parse_str(format!(
            r#"(component $payments
                (core module $inner (@custom "version" "9") (@custom "authors" "others"))
                (component $below (@custom "version" "8"))
                (@custom "version" "1.2.0") (@custom "description" "{long}")
                (@custom "authors" "Ada\0aBob"))"#
        ))
        .unwrap();
        let expect = About {
            name: Some("payments".to_owned()),
            version: Some("1.2.0".to_owned()),
            description: Some(long[1..].to_owned()),
            authors: Some("Ada Bob".to_owned()),
        };
        assert_eq!(about(&component), expect);
        let module = wat::parse_str(r#"(module $refunds (@custom "version" "\ff") (@custom "authors" " "))"#);
        assert_eq!(about(&module.unwrap()), About { name: Some("refunds".to_owned()), ..About::default() });
        assert!(about(b"").is_empty() && about(&component[..20]).is_empty());
    }
}
