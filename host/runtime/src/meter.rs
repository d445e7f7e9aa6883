//! How much an instance takes: linear memory, table elements and parts. Wasmtime asks it before
//! each growth; `fault` asks it afterwards what was denied.

use brolly_core::{Fault, Limits};
use wasmtime::ResourceLimiter;

/// What one instance has and may have.
#[derive(Debug)]
pub(crate) struct Meter {
    memory_limit: usize,
    table_limit: usize,
    instance_limit: usize,
    /// Bytes of all linear memories together. They never shrink, so this is also the most there was.
    memory: usize,
    /// The last growth, in case it fails after it was allowed.
    growth: usize,
    /// What was denied since the attempt began.
    denied: Option<Denied>,
}

#[derive(Clone, Copy, Debug)]
enum Denied {
    /// Bytes of memory wanted in all.
    Memory(usize),
    /// Elements of one table wanted.
    Table(usize),
}

impl Meter {
    pub(crate) fn new(limits: &Limits) -> Self {
        let bounded = |limit: u64| usize::try_from(limit).unwrap_or(usize::MAX);
        Self {
            memory_limit: bounded(limits.memory_bytes),
            table_limit: bounded(limits.table_elements),
            instance_limit: bounded(limits.instances.into()),
            memory: 0,
            growth: 0,
            denied: None,
        }
    }

    /// Forgets what was denied to an earlier attempt.
    pub(crate) fn begin(&mut self) {
        self.denied = None;
    }

    pub(crate) fn memory_bytes(&self) -> u64 {
        self.memory as u64
    }

    pub(crate) fn instance_limit(&self) -> u64 {
        self.instance_limit as u64
    }

    /// The fault for a guest that broke down after it was denied something.
    pub(crate) fn denial(&self) -> Option<Fault> {
        match self.denied? {
            Denied::Memory(wanted) => {
                Some(Fault::OutOfMemory { wanted: wanted as u64, limit: self.memory_limit as u64 })
            }
            Denied::Table(wanted) => Some(Fault::Limit {
                what: format!("a table of {wanted} elements"),
                limit: self.table_limit as u64,
                setting: "limits.table_elements",
            }),
        }
    }
}

impl ResourceLimiter for Meter {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        self.growth = desired.saturating_sub(current);
        let wanted = self.memory.saturating_add(self.growth);
        if wanted > self.memory_limit {
            self.growth = 0;
            self.denied = Some(Denied::Memory(wanted));
            return Ok(false);
        }
        self.memory = wanted;
        Ok(true)
    }

    fn memory_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        // Allowed here, but beyond the memory's own maximum: the guest's own affair.
        self.memory = self.memory.saturating_sub(self.growth);
        self.growth = 0;
        Ok(())
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        if desired > self.table_limit {
            self.denied = Some(Denied::Table(desired));
            return Ok(false);
        }
        Ok(true)
    }

    fn instances(&self) -> usize {
        self.instance_limit
    }

    fn tables(&self) -> usize {
        self.instance_limit
    }

    fn memories(&self) -> usize {
        self.instance_limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 65_536;

    fn meter(pages: u64) -> Meter {
        Meter::new(&Limits { memory_bytes: pages * PAGE as u64, table_elements: 10, ..Limits::default() })
    }

    #[test]
    fn memory_is_limited_over_all_memories_together() {
        let mut meter = meter(4);
        assert!(meter.memory_growing(0, 2 * PAGE, None).unwrap(), "first memory");
        assert!(meter.memory_growing(0, PAGE, None).unwrap(), "second memory");
        assert!(meter.memory_growing(PAGE, 2 * PAGE, None).unwrap(), "up to the limit");
        assert!(meter.denial().is_none());
        assert!(!meter.memory_growing(2 * PAGE, 3 * PAGE, None).unwrap(), "one page more");
        let (wanted, limit) = (5 * PAGE as u64, 4 * PAGE as u64);
        assert_eq!(meter.denial(), Some(Fault::OutOfMemory { wanted, limit }));
        assert_eq!(meter.memory_bytes(), limit);
        meter.begin();
        assert!(meter.denial().is_none(), "an attempt does not answer for the one before");
    }

    #[test]
    fn a_growth_that_failed_is_not_counted() {
        let mut meter = meter(4);
        assert!(meter.memory_growing(0, PAGE, None).unwrap());
        assert!(meter.memory_growing(PAGE, 3 * PAGE, Some(2 * PAGE)).unwrap());
        meter.memory_grow_failed(wasmtime::Error::msg("beyond its maximum")).unwrap();
        assert_eq!(meter.memory_bytes(), PAGE as u64);
    }

    #[test]
    fn tables_are_limited_one_by_one() {
        let mut meter = meter(1);
        assert!(meter.table_growing(0, 10, None).unwrap());
        assert!(meter.table_growing(0, 10, None).unwrap());
        assert!(!meter.table_growing(0, 11, None).unwrap());
        assert!(matches!(
            meter.denial(),
            Some(Fault::Limit { setting: "limits.table_elements", limit: 10, .. })
        ));
    }
}
