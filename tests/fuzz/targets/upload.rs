//! Uploads: whatever bytes somebody hands in are refused with a reason, or are a plugin, the same one each time.
#![no_main]

use std::sync::OnceLock;

use brolly_core::{About, PluginError, Plugins};
use brolly_runtime::{Config, MESSAGING_WORLD, Runtime, WORLD};
use libfuzzer_sys::fuzz_target;
use sha2::{Digest as _, Sha256};

/// One sandbox for all inputs; its folder of compiled plugins stays until the system clears it away.
fn sandbox() -> &'static Runtime {
    static SANDBOX: OnceLock<Runtime> = OnceLock::new();
    SANDBOX.get_or_init(|| {
        // The sandbox survives a panic of what it is made of, and so must this. One that it does not ends this all the same.
        drop(std::panic::take_hook());
        let dir = tempfile::tempdir().expect("a folder").keep();
        Runtime::new(Config { max_instances: 16, ..Config::new(dir) }).expect("a sandbox")
    })
}

fuzz_target!(|wasm: &[u8]| {
    match sandbox().admit(wasm) {
        Err(PluginError::Refused(refusal)) => assert!(!refusal.detail.is_empty()),
        Err(other) => panic!("{other:?}"),
        Ok(admission) => {
            let again = sandbox().admit(wasm).expect("it was taken before");
            assert_eq!((&admission.digest, &admission.imports), (&again.digest, &again.imports));
            assert_eq!(admission.digest, brolly_core::Digest::from_bytes(Sha256::digest(wasm).into()));
            assert_eq!(admission.size_bytes, wasm.len() as u64);
            assert!([WORLD, MESSAGING_WORLD].contains(&admission.world.as_str()), "{}", admission.world);
            let About { name, version, description, .. } = &admission.about;
            for text in [name, version, description].into_iter().flatten() {
                assert!(text.len() <= About::TEXT_BYTES && !text.chars().any(char::is_control), "{text:?}");
            }
        }
    }
});
