//! Captures of attempts, which attempts are recorded, and the files that captures lie in. Called by the admin
//! and the supervisor.

use std::{io, sync::Arc, time::Duration};

use brolly_capture::{Archive, Captures, Mode};
use brolly_core::{Name, Subscription};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::{Error, Handle};

/// How often captures are written to their files: what failed since then is lost in a crash.
const SAVE: Duration = Duration::from_secs(5);

impl Handle {
    /// The newest captures of a subscription, at most `limit`; only failing ones if so wanted.
    ///
    /// # Errors
    /// [`brolly_core::Code::NotFound`].
    pub fn captures(&self, subscription: &Name, failing: bool, limit: usize) -> Result<Captures, Error> {
        self.get::<Subscription>(subscription)?;
        Ok(self.parts().recorders.of(subscription).captures(failing, limit))
    }

    /// Records these attempts of a subscription from now on, until the host stops.
    ///
    /// # Errors
    /// [`brolly_core::Code::NotFound`].
    pub fn record(&self, subscription: &Name, mode: Mode) -> Result<(), Error> {
        self.get::<Subscription>(subscription)?;
        self.parts().recorders.of(subscription).set_mode(mode);
        Ok(())
    }
}

/// The files that captures lie in.
#[derive(Clone)]
pub(crate) struct Shelf {
    handle: Handle,
    archive: Arc<Mutex<Archive>>,
}

impl Shelf {
    /// Gives the recorders what was kept before the host started; none where captures have no folder, or it
    /// cannot be used: then they lie in memory alone.
    pub(crate) async fn open(handle: &Handle) -> Option<Self> {
        let (dir, asked) = (handle.config().captures.clone()?, handle.clone());
        let open = move || {
            let snapshot = asked.catalog().snapshot();
            Archive::open(dir, &asked.parts().recorders, |name| snapshot.subscriptions.contains_key(name))
        };
        let archive = done("read", tokio::task::spawn_blocking(open).await)?;
        Some(Self { handle: handle.clone(), archive: Arc::new(Mutex::new(archive)) })
    }

    /// Writes what is new until it is told to stop.
    pub(crate) async fn run(self, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(SAVE)).await.is_some() {
            self.save().await;
        }
    }

    /// Writes what is new.
    pub(crate) async fn save(&self) {
        let shelf = self.clone();
        let save = move || shelf.archive.lock().save(&shelf.handle.parts().recorders);
        done("written", tokio::task::spawn_blocking(save).await);
    }
}

fn done<T>(what: &str, done: Result<io::Result<T>, tokio::task::JoinError>) -> Option<T> {
    let error = match done {
        Ok(Ok(done)) => return Some(done),
        Ok(Err(error)) => error,
        Err(error) => io::Error::other(error),
    };
    tracing::error!(%error, "captures could not be {what}");
    None
}
