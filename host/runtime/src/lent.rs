//! A loan of the call to the store's data: host functions read from it what an attempt is about.
//! The one place where a lifetime is stretched, because wasmtime wants store data to be `'static`.

use brolly_core::{Call, Outside};
use wasmtime::Store;

use crate::attempt::Guest;

/// The call that is being handled, while it is being handled.
#[derive(Default)]
pub(crate) struct Lent {
    call: Option<&'static Call<'static>>,
    /// Whether the instance is still being made for it.
    starts: bool,
}

/// What the guest does with the loan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum During {
    /// Its instance is made.
    Start,
    /// It handles the delivery.
    Call,
}

impl Lent {
    /// The call; none while the instance is idle or being made. Its lifetime is that of the borrow
    /// of this loan, never the stretched one.
    pub(crate) fn call(&self) -> Option<&Call<'_>> {
        self.call.filter(|_| !self.starts)
    }

    /// What lies outside. A guest may look at the clock while its instance is made for a delivery: the
    /// runtimes of some languages do.
    pub(crate) fn outside(&self) -> Option<&dyn Outside> {
        self.call.map(|call| call.outside)
    }

    /// The key of the delivery.
    pub(crate) fn idempotency_key(&self) -> Option<&str> {
        self.call().map(|call| call.idempotency_key)
    }
}

/// Runs `run` with `call` lent to the store's data. The loan ends with it, even if it panics.
#[allow(unsafe_code, reason = "store data must be 'static, a call is borrowed; see SAFETY")]
pub(crate) fn lend<R>(
    store: &mut Store<Guest>,
    call: &Call<'_>,
    during: During,
    run: impl FnOnce(&mut Store<Guest>) -> R,
) -> R {
    struct Loan<'a>(&'a mut Store<Guest>);
    impl Drop for Loan<'_> {
        fn drop(&mut self) {
            self.0.data_mut().lent = Lent::default();
        }
    }
    // SAFETY: only the lifetime changes, not the type. The stretched reference is private to this
    // module, the methods of `Lent` shorten it to the borrow of `Lent`, and `Lent` is neither `Clone` nor
    // handed out by value. `Loan` removes it before this function returns or unwinds, so before
    // the borrow of `call` ends: `store` stays mutably borrowed by `Loan` until then, and a leak
    // of `Loan` is impossible as it never leaves this function.
    let stretched = unsafe { std::mem::transmute::<&Call<'_>, &'static Call<'static>>(call) };
    let loan = Loan(store);
    loan.0.data_mut().lent = Lent { call: Some(stretched), starts: during == During::Start };
    run(&mut *loan.0)
}
