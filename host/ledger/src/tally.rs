//! How many deliveries of each subscription stand where, counted in the delivery table itself.

use std::collections::HashMap;

use brolly_core::Name;
use brolly_store::keys;

use crate::{
    Error, Ledger, Status,
    deliveries::{self, DeliveryRow},
};

/// Deliveries of one subscription that were attempted, and are within the history that is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Attempted and not decided.
    pub waiting: u64,
    /// Acknowledged.
    pub acked: u64,
    /// Dead letters.
    pub dead: u64,
    /// Dead letters that were deleted.
    pub discarded: u64,
}

impl Ledger {
    /// Counts the deliveries of every subscription. Blocks, for about two seconds for each million of
    /// them.
    ///
    /// # Errors
    /// When the store cannot be read, or a row is not understood.
    pub fn tally(&self) -> Result<HashMap<Name, Tally>, Error> {
        let mut tallies: HashMap<Name, Tally> = HashMap::new();
        for row in self.store.scan(&keys::deliveries_prefix(), None) {
            let (key, value) = row?;
            let Some((_, subscription, None)) = keys::parse_delivery(&key) else { continue };
            let row: DeliveryRow = deliveries::decode("delivery", &key, &value)?;
            let tally = tallies.entry(subscription).or_default();
            *match row.status {
                Status::Waiting => &mut tally.waiting,
                Status::Acked => &mut tally.acked,
                Status::Dead => &mut tally.dead,
                Status::Discarded => &mut tally.discarded,
                // The copy that took its place is counted, under its own id.
                Status::Replaced => continue,
            } += 1;
        }
        Ok(tallies)
    }
}
