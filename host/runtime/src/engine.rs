//! How plugins are compiled and where their instances live: one engine with one pool of instance
//! slots. Built once by the runtime; nobody else configures wasmtime.

use wasmtime::{Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::Error;

/// Bytes that a guest's call stack may take. The threads that run guests need more than that.
pub(crate) const MAX_STACK_BYTES: usize = 512 * 1024;
/// The largest linear memory of a subscription's limits ([`brolly_core::Limits::memory_bytes`]).
const MAX_MEMORY_BYTES: usize = 256 << 20;
/// The most table elements of a subscription's limits.
const MAX_TABLE_ELEMENTS: usize = 100_000;
/// The most core instances, memories and tables of a subscription's limits.
const MAX_CORE_INSTANCES: u32 = 50;
/// The host's own description of one core instance or component, kept beside its memory. The
/// language runtimes that are compiled into large components need more than the usual 1 MiB.
const MAX_METADATA_BYTES: usize = 8 << 20;
/// Memory and tables up to this size are cleared by writing instead of being given back to the
/// system and faulted in again: with the kernel's page scan twice as many instances per second.
const KEEP_RESIDENT_BYTES: usize = 128 * 1024;
/// The fewest instances worth starting with.
const MIN_INSTANCES: u32 = 16;

/// Builds the engine with room for `wanted` instances, or for fewer where the system does not
/// grant that much address space.
pub(crate) fn build(wanted: u32) -> Result<Engine, Error> {
    let mut instances = wanted;
    loop {
        let error = match Engine::new(&config(instances)) {
            Ok(engine) => {
                if instances < wanted {
                    tracing::warn!(
                        wanted,
                        instances,
                        "too little address space for the pool of plugin instances; raise the limit \
                         (ulimit -v) or lower max_instances"
                    );
                }
                return Ok(engine);
            }
            Err(error) => error,
        };
        if instances <= MIN_INSTANCES {
            return Err(Error::Engine { detail: format!("{error:#}") });
        }
        instances = (instances / 4).max(MIN_INSTANCES);
    }
}

fn config(instances: u32) -> wasmtime::Config {
    let mut config = wasmtime::Config::new();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(instances)));
    config.epoch_interruption(true);
    config.max_wasm_stack(MAX_STACK_BYTES);
    // Memory accesses are checked in code, not by guard pages. With guard pages every fresh instance
    // changes the protection of pages twice, and each change interrupts all processors of the
    // process: with two workers on two cores that cost a third of the throughput
    // (docs/adr/0004-bounds-checks-in-code.md).
    config.signals_based_traps(false);
    config.memory_guard_size(0);
    config.memory_reservation(MAX_MEMORY_BYTES as u64);
    // Calls are synchronous, from threads that may block: no fibers, no tasks inside a store.
    config.concurrency_support(false);
    config.wasm_memory64(false);
    // A guest that computes the same from the same input on every machine is one that can be
    // replayed.
    config.relaxed_simd_deterministic(true);
    config
}

fn pool(instances: u32) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    // A component of the SDK has one memory, three core instances and two tables. What is counted
    // here is address space and bookkeeping, so there is room for components made of more.
    let memories = instances.saturating_add(instances / 4);
    pool.total_component_instances(instances)
        .total_core_instances(instances.saturating_mul(8))
        .total_memories(memories)
        .total_tables(instances.saturating_mul(4))
        .max_core_instances_per_component(MAX_CORE_INSTANCES)
        .max_memories_per_component(MAX_CORE_INSTANCES)
        .max_tables_per_component(MAX_CORE_INSTANCES)
        .max_memory_size(MAX_MEMORY_BYTES)
        .table_elements(MAX_TABLE_ELEMENTS)
        .max_core_instance_size(MAX_METADATA_BYTES)
        .max_component_instance_size(MAX_METADATA_BYTES)
        .linear_memory_keep_resident(KEEP_RESIDENT_BYTES)
        .table_keep_resident(KEEP_RESIDENT_BYTES);
    let scan = if PoolingAllocationConfig::is_pagemap_scan_available() { Enabled::Yes } else { Enabled::No };
    pool.pagemap_scan(scan);
    pool
}
