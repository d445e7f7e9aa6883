//! Captures of attempts, and which attempts are recorded. Called by the admin.

use brolly_capture::{Captures, Mode};
use brolly_core::{Name, Subscription};

use crate::{Error, Handle};

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
