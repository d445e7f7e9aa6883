//! What is a plugin, and what the sentence says of what is none.

use brolly_core::{Code, Plugins};
use sha2::{Digest as _, Sha256};

use super::*;
use crate::{MAX_UPLOAD_BYTES, MESSAGING_WORLD, WORLD};

/// A component whose `handle` is fine, with `fields` before it.
fn component(fields: &str) -> Vec<u8> {
    wat::parse_str(format!("(component {fields})")).unwrap()
}

const WRONG_HANDLE: &str = r#"(core module $m (func (export "f"))) (core instance $i (instantiate $m))
    (func $f (canon lift (core func $i "f"))) (export "handle" (func $f))"#;

#[test]
fn a_core_module_and_the_component_made_of_it_are_admitted() {
    let rig = Rig::new();
    let module = guest("(call $ack)");
    let encoded =
        wit_component::ComponentEncoder::default().module(&module).unwrap().validate(true).encode().unwrap();
    assert_ne!(module, encoded);
    for wasm in [module, encoded] {
        let admission = rig.runtime.admit(&wasm).unwrap();
        assert_eq!(admission.digest.hex(), format!("{:x}", Sha256::digest(&wasm)));
        assert_eq!(admission.size_bytes, wasm.len() as u64);
        assert_eq!(admission.world, WORLD);
        assert_eq!(
            admission.imports,
            ["config", "log", "publish", "state"].map(|name| format!("brolly:plugin/{name}@0.1.0"))
        );
        assert!(admission.compile_ms > 0);
        assert_eq!(rig.runtime.admit(&wasm).unwrap().compile_ms, 0, "compiled already");
        assert_eq!(rig.subject(&wasm, |_| {}).deliver().verdict, ACK);
    }
}

#[test]
fn the_world_is_that_of_the_contract() {
    let mut resolve = Resolve::default();
    let (package, _) =
        resolve.push_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../../plugin-sdk/wit")).unwrap();
    assert_eq!(resolve.packages[package].name.interface_id("handler"), WORLD);
}

#[test]
fn only_what_a_plugin_imports_is_listed() {
    let rig = Rig::new();
    let wasm = embed(
        r#"(module (import "brolly:plugin/log@0.1.0" "write" (func (param i32 i32 i32)))
            (memory (export "memory") 1)
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 0))
            (func (export "handle") (param i32) (result i32) (i32.const 1024)))"#,
    );
    assert_eq!(rig.runtime.admit(&wasm).unwrap().imports, ["brolly:plugin/log@0.1.0"]);
}

#[test]
fn what_is_no_plugin_is_refused_in_words() {
    let rig = Rig::new();
    let check = |wasm: &[u8], words: &[&str]| {
        let refusal = rig.refusal(wasm);
        assert_eq!(refusal.code, Code::InvalidPlugin, "{refusal}");
        for word in words {
            assert!(refusal.detail.contains(word), "{refusal} does not say {word:?}");
        }
    };
    check(b"", &["empty"]);
    check(b"{\"order\":1}", &["not WebAssembly", "body"]);
    check(b"(component)", &["text format", "wasm-tools parse"]);
    check(b"\0asm", &["cut off"]);
    check(b"\0asm\x07\0\0\0", &["unknown version"]);
    let plain = wat::parse_str(r#"(module (func (export "handle")))"#).unwrap();
    check(&plain, &["without component metadata", "Brolly SDK"]);
    check(&component(""), &["does not export", "`handle`", WORLD]);
    check(&component(WRONG_HANDLE), &["`handle`", "does not have the type"]);
    check(&component(r#"(instance $i) (export "handle" (instance $i))"#), &["`handle`", "not a function"]);
    let elsewhere = r#"(import "wasi:keyvalue/store@0.2.0-draft" (instance (export "f" (func))))"#;
    check(
        &component(elsewhere),
        &["wasi:keyvalue/store@0.2.0-draft", "brolly:plugin/{log,state,publish,config}"],
    );
    let environment = r#"(import "wasi:cli/environment@0.2.3" (instance (export "f" (func))))"#;
    check(&component(&format!("{environment} {WRONG_HANDLE}")), &["an import does not have the type"]);
    check(&component(r#"(import "now" (func (result u64)))"#), &["\"now\"", "does not offer"]);
    check(
        &component(&format!(
            r#"(import "brolly:plugin/log@0.1.0" (instance (export "write" (func (param "x" u32))))) {WRONG_HANDLE}"#
        )),
        &["an import does not have the type"],
    );
    check(
        &component(&format!(
            r#"(import "brolly:plugin/clock@0.1.0" (instance (export "now" (func)))) {WRONG_HANDLE}"#
        )),
        &["brolly:plugin/clock@0.1.0"],
    );
    let no_handle = embed(r#"(module (memory (export "memory") 1))"#);
    check(&no_handle, &["no component can be made", "handle"]);
    let older = embed(
        r#"(module (import "wasi_unstable" "fd_write" (func (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 0))
            (func (export "handle") (param i32) (result i32) (i32.const 1024)))"#,
    );
    check(&older, &["wasi_unstable", "wasm32-unknown-unknown"]);
}

#[test]
fn of_two_worlds_a_plugin_has_one_and_of_the_draft_the_version_that_is_known() {
    let rig = Rig::new();
    let check = |fields: &str, words: &[&str]| {
        let refusal = rig.refusal(&component(fields));
        assert_eq!(refusal.code, Code::InvalidPlugin, "{refusal}");
        for word in words {
            assert!(refusal.detail.contains(word), "{refusal} does not say {word:?}");
        }
    };
    let exported = |version: &str| {
        format!(r#"(instance $e) (export "wasi:messaging/incoming-handler@{version}" (instance $e))"#)
    };
    check(&exported("0.3.0"), &["wasi:messaging/incoming-handler@0.3.0", MESSAGING_WORLD]);
    check(&exported("0.2.0-draft"), &["does not have the type", MESSAGING_WORLD]);
    check(&format!("{WRONG_HANDLE} {}", exported("0.2.0-draft")), &["two handlers", WORLD]);
    let older = r#"(import "wasi:messaging/producer@0.2.0" (instance (export "send" (func))))"#;
    check(&format!("{older} {WRONG_HANDLE}"), &["wasi:messaging/producer@0.2.0", "does not offer"]);
}

#[test]
fn a_module_for_wasi_s_first_version_runs_through_its_adapter() {
    let rig = Rig::new();
    let module = embed(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write"
                (func $write (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "clock_time_get"
                (func $time (param i32 i64 i32) (result i32)))
            (import "brolly:plugin/config@0.1.0" "get" (func $config (param i32 i32 i32)))
            (memory (export "memory") 3)
            (global $top (mut i32) (i32.const 65536))
            (data (i32.const 64) "hello\0aclock")
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                (global.set $top (i32.and (i32.add (global.get $top) (i32.const 65535)) (i32.const -65536)))
                (global.get $top)
                (global.set $top (i32.add (global.get $top) (local.get 3)))
                (if (i32.gt_u (global.get $top) (i32.mul (memory.size) (i32.const 65536)))
                    (then (drop (memory.grow (i32.const 2))))))
            (func (export "handle") (param i32) (result i32)
                (i32.store (i32.const 16) (i32.const 64)) (i32.store (i32.const 20) (i32.const 6))
                (if (call $write (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 32)) (then unreachable))
                (call $config (i32.const 70) (i32.const 5) (i32.const 48))
                (if (i32.load8_u (i32.const 48))
                    (then (drop (call $time (i32.const 0) (i64.const 1) (i32.const 56)))))
                (i32.store8 (i32.const 1024) (i32.const 0))
                (i32.const 1024)))"#,
    );
    let handled = rig.subject(&module, |_| {}).deliver();
    assert_eq!((&handled.verdict, texts(&handled)), (&ACK, vec!["hello"]));
    let wants_time = |subscription: &mut Subscription| {
        subscription.config.insert("clock".into(), "1".into());
    };
    let handled = rig.subject(&module, wants_time).deliver();
    assert!(fault(&handled).to_string().contains("(grants.clock of"), "{:?}", handled.verdict);
}

#[test]
fn an_upload_beyond_its_limit_is_refused() {
    let rig = Rig::new();
    let mut wasm = b"\0asm\x0d\0\x01\0".to_vec();
    wasm.resize(MAX_UPLOAD_BYTES, 0);
    assert_eq!(rig.refusal(&wasm).code, Code::InvalidPlugin, "within the limit, but nonsense");
    wasm.push(0);
    let refusal = rig.refusal(&wasm);
    assert_eq!(refusal.code, Code::TooLarge);
    assert!(refusal.detail.contains("67108865"), "{refusal}");
}

/// Found by the fuzz target of uploads: the reader of the metadata calls itself for ever.
#[test]
fn packages_that_use_each_other_in_a_circle_are_refused() {
    let module = include_bytes!("../../../../tests/fuzz/corpus/upload/packages-in-a-circle");
    let refusal = Rig::new().refusal(module);
    assert_eq!(refusal.code, Code::InvalidPlugin);
    assert!(refusal.detail.contains("in a circle"), "{refusal}");
}

#[test]
fn a_plugin_that_needs_more_than_any_subscription_may_have_is_refused() {
    let rig = Rig::new();
    let module = r#"(module (memory (export "memory") 4097)
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 0))
        (func (export "handle") (param i32) (result i32) (i32.const 1024)))"#;
    let refusal = rig.refusal(&embed(module));
    assert!(refusal.detail.contains("memory"), "{refusal}");
    assert!(rig.runtime.admit(&embed(&module.replace("4097", "4096"))).is_ok());
}

#[test]
fn damaged_bytes_are_refused_and_never_a_panic() {
    let rig = Rig::new();
    let module = guest("(call $ack)");
    for wasm in [component(WRONG_HANDLE), module.clone()] {
        for len in (0..wasm.len()).step_by(7) {
            assert_eq!(rig.refusal(&wasm[..len]).code, Code::InvalidPlugin, "cut to {len} bytes");
        }
    }
    let mut refused = 0;
    for at in (8..module.len()).step_by(5) {
        let mut wasm = module.clone();
        wasm[at] ^= 0x55;
        // Some damage does not matter, as in a name; all of it is survived.
        refused += u32::from(rig.runtime.admit(&wasm).is_err());
    }
    assert!(refused > 100, "only {refused} refused");
}

/// A component of `levels` nested ones, each of which holds the one below it twice.
fn doubling(levels: usize) -> Vec<u8> {
    let mut fields = r#"(component $c0 (core module $m) (core instance (instantiate $m)))"#.to_owned();
    for level in 1..=levels {
        fields += &format!(
            "(component $c{level} (alias outer 1 $c{} (component $below))
               (instance (instantiate $below)) (instance (instantiate $below)))",
            level - 1
        );
    }
    component(&format!("{fields} (instance (instantiate $c{levels}))"))
}

#[test]
fn a_small_upload_that_unfolds_to_a_huge_one_is_refused_at_once() {
    let rig = Rig::new();
    let check = |levels, words: &str| {
        let refusal = rig.refusal(&doubling(levels));
        assert!(refusal.detail.contains(words), "{levels} levels: {refusal}");
    };
    check(4, "does not export");
    check(15, "exceeds the configured maximum of 50");
    check(16, "33 nested components");
    check(60, "121 nested components");
}

#[test]
fn a_deeply_nested_type_is_refused() {
    let rig = Rig::new();
    let mut types = "(type $t0 (list u8))".to_owned();
    for level in 1..20_000 {
        types += &format!("(type $t{level} (list $t{}))", level - 1);
    }
    let refusal = rig.refusal(&component(&types));
    assert!(refusal.detail.contains("too deep"), "{refusal}");
}
