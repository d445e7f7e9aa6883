//! Wrong tokens: how many an address may bring before it has to wait, and for how long. Kept for the
//! sign-in and for the header Authorization apart: programs with an outdated token are many, and people
//! mistype one a few times.
//!
//! A token that an address has brought rightly before is looked at while the address waits: what one
//! program has wrong must not stop the others behind the same address, whose messages are orders.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use brolly_core::{Name, Timestamp};
use parking_lot::Mutex;

/// The longest wait after a wrong token.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// How long a wrong token is remembered.
const MEMORY: Duration = Duration::from_secs(15 * 60);
/// Addresses remembered; the one that failed the longest ago goes for one more.
const ADDRESSES: usize = 10_000;
/// Pairs of address and token that were right; any of them goes for one more.
const KNOWN: usize = 10_000;

/// The wrong tokens that came, by where from.
pub(crate) struct Guesses {
    /// Wrong tokens without a wait.
    free: u32,
    wrong: Mutex<HashMap<IpAddr, Wrong>>,
    /// Which tokens an address has brought rightly, with the token's revision.
    known: Mutex<HashMap<(IpAddr, Name), u64>>,
}

struct Wrong {
    count: u32,
    latest: Timestamp,
    /// Until then nothing from the address is looked at.
    until: Timestamp,
}

impl Guesses {
    /// Nobody has to wait for so many wrong tokens.
    pub(crate) fn after(free: u32) -> Self {
        Self { free, wrong: Mutex::default(), known: Mutex::default() }
    }

    /// How long an address has to wait before its next try.
    pub(crate) fn wait(&self, address: IpAddr, now: Timestamp) -> Option<Duration> {
        let until = self.wrong.lock().get(&block(address))?.until;
        Some(until.since(now)).filter(|wait| !wait.is_zero())
    }

    /// A wrong token: each beyond the free ones doubles the wait, from one second on.
    pub(crate) fn failed(&self, address: IpAddr, now: Timestamp) {
        let mut all = self.wrong.lock();
        let address = block(address);
        if !all.contains_key(&address) && all.len() >= ADDRESSES {
            all.retain(|_, wrong| now < wrong.latest.after(MEMORY));
        }
        if all.len() >= ADDRESSES
            && !all.contains_key(&address)
            && let Some(oldest) =
                all.iter().min_by_key(|(_, wrong)| wrong.latest).map(|(address, _)| *address)
        {
            all.remove(&oldest);
        }
        let wrong = all.entry(address).or_insert(Wrong { count: 0, latest: now, until: now });
        if now >= wrong.latest.after(MEMORY) {
            wrong.count = 0;
        }
        wrong.count = wrong.count.saturating_add(1);
        wrong.latest = now;
        if let Some(over) = wrong.count.checked_sub(self.free + 1) {
            let wait = Duration::from_secs(1_u64.checked_shl(over).unwrap_or(u64::MAX));
            wrong.until = now.after(wait.min(LONGEST_WAIT));
        }
    }

    /// A right token, which counts from now on though its address has to wait.
    pub(crate) fn right(&self, address: IpAddr, token: &Name, revision: u64) {
        let mut known = self.known.lock();
        let pair = (address, token.clone());
        if known.len() >= KNOWN
            && !known.contains_key(&pair)
            && let Some(any) = known.keys().next().cloned()
        {
            known.remove(&any);
        }
        known.insert(pair, revision);
    }

    /// Whether the address has brought this very token rightly before.
    pub(crate) fn knows(&self, address: IpAddr, token: &Name, revision: u64) -> bool {
        self.known.lock().get(&(address, token.clone())) == Some(&revision)
    }
}

/// What counts as one address: of IPv6 the network of 64 bits that one owner has.
fn block(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp(1_000_000);

    fn address(last: u16) -> IpAddr {
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, last, 1, 2, 3, 4))
    }

    #[test]
    fn waits_double_up_to_a_minute_and_are_forgotten() {
        let guesses = Guesses::after(2);
        let mut now = START;
        for expect in [0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60] {
            guesses.failed(address(1), now);
            let wait = guesses.wait(address(1), now).unwrap_or_default();
            assert_eq!(wait, Duration::from_secs(expect));
            now = now.after(wait);
        }
        for _ in 0..100 {
            guesses.failed(address(1), now);
        }
        assert_eq!(guesses.wait(address(1), now), Some(LONGEST_WAIT));
        guesses.failed(address(1), now.after(MEMORY));
        assert_eq!(guesses.wait(address(1), now.after(MEMORY)), None, "it begins anew");
    }

    #[test]
    fn a_network_counts_as_one_address_and_no_other_waits() {
        let guesses = Guesses::after(0);
        let neighbour = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 9, 9, 9, 9));
        guesses.failed(address(1), START);
        assert!(guesses.wait(neighbour, START).is_some());
        assert!(guesses.wait(address(2), START).is_none());
        let mapped: IpAddr = "::ffff:192.0.2.1".parse().unwrap();
        guesses.failed(mapped, START);
        assert!(guesses.wait([192, 0, 2, 1].into(), START).is_some());
        assert!(guesses.wait([192, 0, 2, 2].into(), START).is_none());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let guesses = Guesses::after(0);
        for at in 0..=u16::try_from(ADDRESSES).unwrap() {
            guesses.failed(address(at), START.after(Duration::from_millis(at.into())));
        }
        assert_eq!(guesses.wrong.lock().len(), ADDRESSES);
        assert!(guesses.wait(address(0), START).is_none(), "the oldest is gone");
        assert!(guesses.wait(address(1), START).is_some());
        let token = Name::new("t").unwrap();
        for at in 0..=u16::try_from(KNOWN).unwrap() {
            guesses.right(address(at), &token, 1);
        }
        assert_eq!(guesses.known.lock().len(), KNOWN);
        assert!(guesses.knows(address(u16::try_from(KNOWN).unwrap()), &token, 1));
        assert!(
            !guesses.knows(address(u16::try_from(KNOWN).unwrap()), &token, 2),
            "made anew, it is another"
        );
    }
}
