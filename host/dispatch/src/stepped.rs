//! A worker that handles one delivery when it is told to, on the caller's thread: the life of a message as
//! `worker.rs` has it, with nothing left to the kernel. Called by a simulation, in which the order of
//! everything comes from a seed.

use std::sync::Arc;

use brolly_core::{Consume, Name, Source, Subscription};
use tokio::{sync::watch, task::JoinSet};

use crate::{
    Error, Handle,
    controller::{Controller, Wanted},
    status::Board,
    supervisor::wanted,
    worker::Worker,
};

/// One subscription, in the caller's hands. Its source stays open until it is dropped.
pub struct Stepped {
    controller: Controller,
    worker: Arc<Worker>,
    source: Arc<dyn Source>,
    /// What compares versions, if there is a rollout.
    comparing: JoinSet<()>,
}

impl Handle {
    /// Opens the queue of a subscription for a caller that wants to decide when a delivery is handled.
    /// Nobody else may run it at the same time.
    ///
    /// # Errors
    /// [`brolly_core::Code::NotFound`]; what keeps a subscription from running.
    pub async fn stepped(&self, name: &Name) -> Result<Stepped, Error> {
        let wanted = self.wanted(name)?;
        let parts = self.parts().clone();
        let board = Arc::new(Board::new(&*parts.clock));
        let (_, never) = watch::channel(None);
        let controller = Controller { name: name.clone(), parts, wanted: never, board };
        let mut comparing = JoinSet::new();
        let plan = controller.plan(&wanted, &mut comparing).await?;
        let definition = &wanted.definition;
        let broker = self.parts().brokers.of_queue(&self.parts().catalog.snapshot(), &definition.queue)?;
        let consume = Consume { order: definition.order, max_in_flight: definition.max_in_flight };
        let source = broker.consume(&definition.queue, consume).await?;
        let worker = Arc::new(controller.worker(definition, broker.system(), source.clone(), plan));
        Ok(Stepped { controller, worker, source, comparing })
    }

    fn wanted(&self, name: &Name) -> Result<Wanted, Error> {
        self.get::<Subscription>(name)?;
        let wanted = wanted(&self.parts().catalog.snapshot(), name);
        wanted.ok_or_else(|| brolly_core::Refusal::not_found("subscription", name.as_str()).into())
    }
}

impl Stepped {
    /// Waits until [`Stepped::step`] may find a delivery, as a worker does.
    ///
    /// # Errors
    /// When the broker has ended the connection.
    pub async fn ready(&self) -> Result<(), Error> {
        Ok(self.source.ready().await?)
    }

    /// Takes a delivery and handles it; answers whether there was one. May be called again from within
    /// the handler, as another worker would.
    ///
    /// # Errors
    /// Those with which a worker ends.
    pub fn step(&self) -> Result<bool, Error> {
        let Some(delivery) = self.source.take()? else { return Ok(false) };
        self.worker.handle(&delivery)?;
        Ok(true)
    }

    /// Has the definition of now count from the next delivery on, as a running subscription does.
    ///
    /// # Errors
    /// As [`Handle::stepped`].
    pub async fn follow(&mut self, handle: &Handle) -> Result<(), Error> {
        let plan = self.controller.plan(&handle.wanted(&self.controller.name)?, &mut self.comparing).await?;
        self.worker.plan.store(Arc::new(plan));
        Ok(())
    }
}

impl Drop for Stepped {
    fn drop(&mut self) {
        self.source.close();
    }
}
