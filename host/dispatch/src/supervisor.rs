//! Compares the subscriptions that are wanted with those that have a controller, and starts and
//! stops the difference; drains everything at the end.

use std::{collections::HashMap, sync::Arc, time::Duration};

use brolly_catalog::Snapshot;
use brolly_core::Name;
use tokio::{
    sync::watch,
    task::{Id, JoinSet},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Error, Handle,
    alerts::Watch,
    captures::Shelf,
    controller::{Controller, Wanted},
    feeds::Feeds,
    forgetting, rates,
    status::Board,
};

/// Runs every subscription that is wanted.
pub(crate) struct Supervisor {
    handle: Handle,
    controllers: HashMap<Name, watch::Sender<Option<Wanted>>>,
    tasks: JoinSet<()>,
    names: HashMap<Id, Name>,
    feeds: Feeds,
    /// What goes on beside them: warnings for the owners of queues, forgetting, and the files of captures.
    chores: JoinSet<()>,
}

impl Supervisor {
    pub(crate) fn new(handle: Handle) -> Self {
        Self {
            handle,
            controllers: HashMap::new(),
            tasks: JoinSet::new(),
            names: HashMap::new(),
            feeds: Feeds::default(),
            chores: JoinSet::new(),
        }
    }

    /// Follows the catalog until it is told to stop, then waits until every subscription has
    /// finished what it had in hand.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), Error> {
        let mut changes = self.handle.catalog().changes();
        // Before the first attempt is recorded.
        let shelf = Shelf::open(&self.handle).await;
        if let Some(shelf) = &shelf {
            self.chores.spawn(shelf.clone().run(stop.clone()));
        }
        // Before the first notice is sent that waits from an earlier run.
        self.handle.follow_channels();
        self.chores.spawn(Watch::new(self.handle.clone()).run(stop.clone()));
        self.chores.spawn(self.handle.parts().alerts.clone().run(stop.clone()));
        self.chores.spawn(forgetting::run(self.handle.clone(), stop.clone()));
        loop {
            changes.borrow_and_update();
            self.handle.configure_brokers().await?;
            self.reconcile();
            self.feeds.follow(&self.handle);
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                changed = changes.changed() => if changed.is_err() { break },
                Some(ended) = self.tasks.join_next_with_id() => self.forget(ended),
            }
        }
        self.feeds.stop().await;
        for wanted in self.controllers.values() {
            wanted.send_replace(None);
        }
        while self.tasks.join_next().await.is_some() {}
        while self.chores.join_next().await.is_some() {}
        if let Some(shelf) = &shelf {
            shelf.save().await;
        }
        self.handle.parts().brokers.close_all().await;
        Ok(())
    }

    fn reconcile(&mut self) {
        let snapshot = self.handle.catalog().snapshot();
        let gone: Vec<Name> = self
            .controllers
            .keys()
            .filter(|name| !snapshot.subscriptions.contains_key(*name))
            .cloned()
            .collect();
        for name in gone {
            if let Some(wanted) = self.controllers.remove(&name) {
                wanted.send_replace(None);
            }
            self.handle.boards().write().remove(&name);
            self.handle.parts().recorders.forget(&name);
        }
        for name in snapshot.subscriptions.keys() {
            let wanted = wanted(&snapshot, name);
            match self.controllers.get(name) {
                Some(sender) => {
                    sender.send_if_modified(|present| {
                        let changed = *present != wanted;
                        *present = wanted;
                        changed
                    });
                }
                None => self.start(name.clone(), wanted),
            }
        }
    }

    fn start(&mut self, name: Name, wanted: Option<Wanted>) {
        let (sender, receiver) = watch::channel(wanted);
        let parts = self.handle.parts().clone();
        let board = Arc::new(Board::new(&*parts.clock));
        self.handle.boards().write().insert(name.clone(), board.clone());
        let controller = Controller { name: name.clone(), parts, wanted: receiver, board };
        let task = self.tasks.spawn(controller.run());
        self.names.insert(task.id(), name.clone());
        self.controllers.insert(name, sender);
    }

    /// A controller ends when its subscription is wanted no more. One that ends otherwise is
    /// forgotten, so that the next comparison starts it anew.
    fn forget(&mut self, ended: Result<(Id, ()), tokio::task::JoinError>) {
        let id = match &ended {
            Ok((id, ())) => *id,
            Err(error) => error.id(),
        };
        let Some(name) = self.names.remove(&id) else { return };
        if let Err(error) = ended {
            tracing::error!(subscription = %name, %error, "the controller of a subscription broke off and is started anew");
            self.controllers.remove(&name);
        }
    }
}

/// A subscription as the catalog wants it; none if it does not.
pub(crate) fn wanted(snapshot: &Snapshot, name: &Name) -> Option<Wanted> {
    let definition = snapshot.subscriptions.get(name)?.value.clone();
    let queue = snapshot.queues.get(&definition.queue);
    let max_age = queue.and_then(|queue| queue.value.retention.max_age_ms).map(Duration::from_millis);
    let all = snapshot.subscriptions.values().filter_map(|entry| entry.value.rate.as_ref());
    let rate = definition.rate.as_ref().map(|rate| rates::in_force(rate, all).clone());
    Some(Wanted { definition, max_age, rate })
}
