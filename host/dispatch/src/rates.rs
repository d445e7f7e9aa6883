//! How fast subscriptions may handle deliveries: a rate of their own, or one that several share by a name.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{Arc, Weak},
    time::Duration,
};

use brolly_core::{Name, Rate};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter, clock::Clock as _};
use parking_lot::Mutex;

/// Lets attempts begin, and not more of them than it may.
pub(crate) struct Pace {
    rate: Rate,
    limiter: DefaultDirectRateLimiter,
}

impl Pace {
    fn new(rate: &Rate) -> Arc<Self> {
        let at_least_one = |count: u32| NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_second(at_least_one(rate.per_second)).allow_burst(at_least_one(rate.burst()));
        Arc::new(Self { rate: rate.clone(), limiter: RateLimiter::direct(quota) })
    }

    /// Takes the leave for one attempt; otherwise how long until there may be one.
    pub(crate) fn leave(&self) -> Result<(), Duration> {
        self.limiter.check().map_err(|early| early.wait_time_from(self.limiter.clock().now()))
    }

    /// Waits until there is leave for an attempt, and takes it.
    pub(crate) async fn wait(&self) {
        while let Err(early) = self.leave() {
            tokio::time::sleep(early).await;
        }
    }
}

/// The rate that holds for a subscription: the slowest of those that say the same name. `all` has the rates of
/// all subscriptions.
pub(crate) fn in_force<'a>(rate: &'a Rate, all: impl Iterator<Item = &'a Rate>) -> &'a Rate {
    let Some(name) = &rate.shared else { return rate };
    let speed = |rate: &Rate| (rate.per_second, rate.burst());
    let same = all.filter(|other| other.shared.as_ref() == Some(name));
    same.fold(rate, |slowest, other| if speed(other) < speed(slowest) { other } else { slowest })
}

/// The rates that are shared. They live as long as a subscription runs with them.
#[derive(Default)]
pub(crate) struct Rates {
    shared: Mutex<HashMap<Name, Weak<Pace>>>,
}

impl Rates {
    /// The pace for a rate that holds; whoever shares its name has the same one.
    pub(crate) fn of(&self, rate: &Rate) -> Arc<Pace> {
        let Some(name) = &rate.shared else { return Pace::new(rate) };
        let mut shared = self.shared.lock();
        shared.retain(|_, pace| pace.strong_count() > 0);
        if let Some(pace) = shared.get(name).and_then(Weak::upgrade).filter(|pace| pace.rate == *rate) {
            return pace;
        }
        let pace = Pace::new(rate);
        shared.insert(name.clone(), Arc::downgrade(&pace));
        pace
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(per_second: u32, burst: u32, shared: Option<&str>) -> Rate {
        Rate { per_second, burst: Some(burst), shared: shared.map(|name| Name::new(name).unwrap()) }
    }

    fn leaves(pace: &Pace) -> usize {
        (0..1_000).take_while(|_| pace.leave().is_ok()).count()
    }

    #[test]
    fn no_more_than_the_burst_at_once() {
        let pace = Rates::default().of(&rate(1, 7, None));
        assert_eq!(leaves(&pace), 7);
        let early = pace.leave().unwrap_err();
        assert!(early > Duration::ZERO && early <= Duration::from_secs(1), "{early:?}");
        assert_eq!(Rate { burst: None, ..rate(5, 1, None) }.burst(), 1);
        assert_eq!(Rate { burst: None, ..rate(500, 1, None) }.burst(), 50);
    }

    #[test]
    fn one_name_is_one_rate_and_the_slowest_holds() {
        let rates = Rates::default();
        let (fast, slow) = (rate(100, 10, Some("insurer")), rate(2, 3, Some("insurer")));
        let elsewhere = rate(1, 1, Some("mail"));
        let all = [&fast, &slow, &elsewhere];
        let of = |rate: &Rate| rates.of(in_force(rate, all.into_iter()));
        let (first, second) = (of(&fast), of(&slow));
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!(leaves(&first) + leaves(&second), 3);
        let other = of(&elsewhere);
        assert_eq!(leaves(&other), 1);
        let own = of(&rate(100, 5, None));
        assert_eq!(leaves(&own), 5);
        // A change of the rate begins a new one.
        let changed = rates.of(in_force(&fast, std::iter::once(&fast)));
        assert_eq!(leaves(&changed), 10);
    }
}
