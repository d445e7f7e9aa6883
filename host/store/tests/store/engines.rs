//! Runs every test once for each engine: as `sled::NAME` and as `redb::NAME`. Used by all tests of
//! this package; knows nothing of what they test.

use std::sync::{Mutex, PoisonError};

/// Makes tests of functions that take the engine and answer with a future.
macro_rules! on_each_engine {
    ($($test:ident),+ $(,)?) => {
        $crate::engines::on_each_engine!(@ sled Sled $($test)+);
        $crate::engines::on_each_engine!(@ redb Redb $($test)+);
    };
    (@ $module:ident $engine:ident $($test:ident)+) => {
        mod $module {
            $(
                #[test]
                fn $test() {
                    $crate::engines::wait(super::$test(brolly_store::Engine::$engine));
                }
            )+
        }
    };
}

pub(crate) use on_each_engine;

/// Held by the test that runs. Some start a process, which holds what this one holds, the lock of a store
/// for one, until it has become its own program: another test could not open its store again.
static ALONE: Mutex<()> = Mutex::new(());

/// Runs a test to its end, and no other one meanwhile.
pub(crate) fn wait(test: impl Future<Output = ()>) {
    // One that failed is no reason for the others to.
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test);
}
