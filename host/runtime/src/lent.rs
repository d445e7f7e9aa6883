//! A loan of the call to the store's data: host functions read from it what an attempt is about.
//! The one place where a lifetime is stretched, because wasmtime wants store data to be `'static`.

use brolly_core::Call;
use wasmtime::Store;

use crate::attempt::Guest;

/// The call that is being handled, while it is being handled.
#[derive(Default)]
pub(crate) struct Lent(Option<&'static Call<'static>>);

impl Lent {
    /// The call; none while the instance is idle or being made. Its lifetime is that of the borrow
    /// of this loan, never the stretched one.
    pub(crate) fn call(&self) -> Option<&Call<'_>> {
        self.0
    }
}

/// Runs `run` with `call` lent to the store's data. The loan ends with it, even if it panics.
#[allow(unsafe_code, reason = "store data must be 'static, a call is borrowed; see SAFETY")]
pub(crate) fn lend<R>(
    store: &mut Store<Guest>,
    call: &Call<'_>,
    run: impl FnOnce(&mut Store<Guest>) -> R,
) -> R {
    struct Loan<'a>(&'a mut Store<Guest>);
    impl Drop for Loan<'_> {
        fn drop(&mut self) {
            self.0.data_mut().lent = Lent(None);
        }
    }
    // SAFETY: only the lifetime changes, not the type. The stretched reference is private to this
    // module, `Lent::call` shortens it to the borrow of `Lent`, and `Lent` is neither `Clone` nor
    // handed out by value. `Loan` removes it before this function returns or unwinds, so before
    // the borrow of `call` ends: `store` stays mutably borrowed by `Loan` until then, and a leak
    // of `Loan` is impossible as it never leaves this function.
    let stretched = unsafe { std::mem::transmute::<&Call<'_>, &'static Call<'static>>(call) };
    let loan = Loan(store);
    loan.0.data_mut().lent = Lent(Some(stretched));
    run(&mut *loan.0)
}
