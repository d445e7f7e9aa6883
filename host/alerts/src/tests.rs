//! The crate as dispatch uses it, over a real store and a clock of the test's own. That notices get through is
//! tested with real servers, on the whole.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use brolly_core::{Clock, Name, Queue, Timestamp};
use brolly_store::Store;
use serde_json::json;

use crate::{Alerts, Seen, Status, Wanted, check_queue};

#[derive(Default)]
struct Hand(AtomicU64);

impl Clock for Hand {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::Relaxed))
    }
}

struct Bench {
    dir: tempfile::TempDir,
    clock: Arc<Hand>,
    store: Store,
    alerts: Alerts,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(Hand::default());
        let (store, alerts) = open(&dir, &clock);
        Self { dir, clock, store, alerts }
    }

    fn restart(&mut self) {
        self.store.close();
        (self.store, self.alerts) = open(&self.dir, &self.clock);
    }

    async fn see(&self, queue: &str, value: u64) {
        let definition: Queue = serde_json::from_value(json!({"alerts":
            [{"when": "ready", "above": 10, "for_ms": 100, "channels": ["nobody"]}]}))
        .unwrap();
        let queue = Name::new(queue).unwrap();
        let seen = Seen { queue, definition: Arc::new(definition), values: vec![Some(value)] };
        self.alerts.observe(&[seen]).await.unwrap();
        self.clock.0.fetch_add(100, Ordering::Relaxed);
    }

    fn list(&self, wanted: &Wanted) -> Vec<(u64, Status)> {
        let (mut all, mut before) = (Vec::new(), None);
        loop {
            let (part, next) = self.alerts.list(wanted, before, 2).unwrap();
            all.extend(part.iter().map(|alert| (alert.number, alert.status)));
            match next {
                Some(next) => before = Some(next),
                None => return all,
            }
        }
    }
}

fn open(dir: &tempfile::TempDir, clock: &Arc<Hand>) -> (Store, Alerts) {
    let store = Store::open(&brolly_store::Config::new(dir.path().join("store"))).unwrap();
    let alerts = Alerts::open(store.clone(), "host", clock.clone()).unwrap();
    (store, alerts)
}

#[tokio::test]
async fn alerts_are_listed_latest_first_and_go_on_after_a_restart() {
    let mut bench = Bench::new();
    for _ in 0..3 {
        bench.see("q", 11).await;
        bench.see("q", 11).await;
        bench.see("q", 0).await;
        bench.see("q", 0).await;
    }
    bench.see("q", 11).await;
    let all = Wanted::default();
    let expect =
        [(4, Status::Pending), (3, Status::Recovered), (2, Status::Recovered), (1, Status::Recovered)];
    assert_eq!(bench.list(&all), expect);
    bench.restart();
    assert_eq!(bench.list(&all), expect);
    bench.see("q", 12).await;
    assert_eq!(bench.list(&Wanted { status: Some(Status::Firing), ..all.clone() }), [(4, Status::Firing)]);
    let other = Wanted { queue: Some(Name::new("other").unwrap()), ..all.clone() };
    assert_eq!(bench.list(&other), []);

    // Looking at another queue ends the one that is looked at no more.
    bench.see("other", 0).await;
    assert_eq!(bench.list(&all)[0], (4, Status::Ended));
    assert!(bench.alerts.firing().is_empty());
    assert!(bench.alerts.acknowledge(4, None).await.is_err(), "it is over");
}

#[tokio::test]
async fn what_was_nothing_leaves_nothing() {
    let mut bench = Bench::new();
    bench.see("q", 11).await;
    assert_eq!(bench.list(&Wanted::default()), [(1, Status::Pending)]);
    bench.see("q", 10).await;
    assert_eq!(bench.list(&Wanted::default()), []);
    bench.restart();
    assert_eq!(bench.list(&Wanted::default()), []);
    bench.see("q", 11).await;
    assert_eq!(bench.alerts.get(1).unwrap().map(|alert| alert.since), Some(Timestamp(200)));
}

#[tokio::test]
async fn what_cannot_be_used_is_refused_with_its_field() {
    let bench = Bench::new();
    let channels = [
        (json!({"kind": "smtp", "url": "http://h", "from": "a@b.c"}), "url"),
        (json!({"kind": "smtp", "url": "smtp://h?tls=maybe", "from": "a@b.c"}), "url"),
        (json!({"kind": "smtp", "url": "smtp://h", "from": "nobody"}), "from"),
        (json!({"kind": "smtp", "url": "smtp://h", "from": "a@b.c", "to": ["x"]}), "to"),
        (
            json!({"kind": "smtp", "url": {"env": "BROLLY_NO_SUCH_VARIABLE"}, "from": "a@b.c"}),
            "BROLLY_NO_SUCH",
        ),
        (json!({"kind": "sms", "preset": "http", "url": "ftp://h", "body": "\"\""}), "url"),
        (json!({"kind": "sms", "preset": "http", "url": "http://h", "body": "{"}), "body"),
        (
            json!({"kind": "sms", "preset": "http", "url": "http://h", "body": "1", "headers": {"a b": "c"}}),
            "headers.a b",
        ),
        (
            json!({"kind": "sms", "preset": "http", "url": "http://h", "body": "1", "content_type": "a\nb"}),
            "content_type",
        ),
        (
            json!({"kind": "sms", "preset": "alibaba", "access_key_id": "i", "access_key_secret": "s",
                "sign_name": "n", "template_code": "c", "url": "https://h/path"}),
            "url",
        ),
        (
            json!({"kind": "sms", "preset": "alibaba", "access_key_id": "i", "access_key_secret": "s",
                "sign_name": "n", "template_code": "c", "template_params": "{{ phone }}"}),
            "template_params",
        ),
        (json!({"kind": "webhook", "url": "http://h", "preset": "slack", "secret": "s"}), "secret"),
        (
            json!({"kind": "webhook", "url": "http://h", "secret": {"env": "BROLLY_NO_SUCH_VARIABLE"}}),
            "BROLLY_NO_SUCH",
        ),
    ];
    for (definition, names) in channels {
        let refused =
            bench.alerts.check_channel(&serde_json::from_value(definition.clone()).unwrap()).unwrap_err();
        assert!(refused.detail.contains(names), "{definition}: {refused}");
    }
    let quiet = json!({"alerts": [{"when": "dead", "above": 0, "channels": ["c"],
        "quiet": {"from": "22:00", "to": "7", "zone": "UTC"}}]});
    let owner = json!({"owners": [{"name": "n", "email": "nobody"}]});
    for (queue, names) in [(quiet, "alerts[0].quiet.to"), (owner, "owners[0].email")] {
        assert!(check_queue(&serde_json::from_value(queue).unwrap()).unwrap_err().detail.contains(names));
    }
}
