//! The stream of deliveries from one remote queue: the window, seen by workers.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use brolly_core::{BrokerError, Commit, Delivery, Lease, Settlement, Source};

use crate::window::Window;

/// The one source of a queue.
pub(crate) struct RemoteSource(pub Arc<Window>);

#[async_trait]
impl Source for RemoteSource {
    async fn ready(&self) -> Result<(), BrokerError> {
        self.0.ready().await
    }

    fn take(&self) -> Result<Option<Delivery>, BrokerError> {
        Ok(self.0.take())
    }

    /// Nothing: the other side is told after the commit, and what it is not told of comes again and
    /// is found decided.
    fn stage(&self, _: &Delivery, _: Settlement, _: &mut Commit) {}

    fn settle(&self, lease: Lease, settlement: Settlement) {
        self.0.settle(lease, settlement);
    }

    fn give_back(&self, lease: Lease, delay: Duration) {
        self.0.hold(lease, delay, None);
    }

    fn close(&self) {
        self.0.close();
    }
}
