//! The catalog over a real store: what is refused, what survives, who comes first.

use std::sync::Arc;

use brolly_core::{
    Admission, BrokerDefinition, Code, Digest, Name, Queue, Route, Subscription, SystemClock, Topic, defaults,
};
use brolly_store::{Config, Store, keys};

use crate::{Action, Catalog, Definition, Error, Grant, Plugin, Precondition, Records, Role, Token};

struct Bench {
    dir: tempfile::TempDir,
    store: Store,
    catalog: Arc<Catalog>,
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn open() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&Config::new(dir.path().join("store"))).unwrap();
    let catalog =
        Arc::new(Catalog::open(store.clone(), dir.path().join("plugins"), Arc::new(SystemClock)).unwrap());
    Bench { dir, store, catalog }
}

fn definition<T: serde::de::DeserializeOwned>(json: serde_json::Value) -> T {
    serde_json::from_value(json).unwrap()
}

fn digest(byte: u8) -> Digest {
    Digest::from_bytes([byte; 32])
}

impl Bench {
    async fn put<T: Definition>(&self, at: &str, json: serde_json::Value) -> Result<u64, Code> {
        let put = self.catalog.put(&name(at), definition::<T>(json), Precondition::None, None).await;
        put.map(|put| put.entry.revision).map_err(|error| code(&error))
    }

    async fn delete<T: Definition>(&self, at: &str) -> Result<(), Code> {
        self.catalog.delete::<T>(&name(at), Precondition::None, None).await.map_err(|error| code(&error))
    }

    async fn version(&self, plugin: &str, byte: u8) {
        self.add_version(plugin, byte).await.unwrap();
    }

    async fn add_version(&self, plugin: &str, byte: u8) -> Result<(), Error> {
        let admission = Admission {
            digest: digest(byte),
            size_bytes: 3,
            world: "brolly:plugin/handler@0.1.0".into(),
            imports: Vec::new(),
            compile_ms: 1,
            about: brolly_core::About::default(),
        };
        self.catalog.add_version(&name(plugin), admission, (vec![byte; 3], None), None).await.map(drop)
    }

    /// The catalog as it is after a restart.
    fn reopen(&mut self) {
        let plugins = self.dir.path().join("plugins");
        self.catalog = Arc::new(Catalog::open(self.store.clone(), plugins, Arc::new(SystemClock)).unwrap());
    }

    fn row_bytes(&self, topic: &str) -> usize {
        self.store.get(&keys::catalog("topic", &name(topic))).unwrap().unwrap().len()
    }

    /// A topic, a queue, a route and a subscription.
    async fn fill(&self) {
        self.put::<Topic>("t", serde_json::json!({})).await.unwrap();
        self.put::<Queue>("q", serde_json::json!({})).await.unwrap();
        self.put::<Route>("r", serde_json::json!({"topic": "t", "queue": "q"})).await.unwrap();
        self.version("p", 1).await;
        self.put::<Subscription>("s", subscription("q", 1)).await.unwrap();
    }
}

fn subscription(queue: &str, version: u8) -> serde_json::Value {
    serde_json::json!({"queue": queue, "plugin": "p", "version": digest(version)})
}

fn code(error: &Error) -> Code {
    match error {
        Error::Refused(refusal) => refusal.code,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn nothing_refers_to_what_is_not_there() {
    let bench = open();
    let refused = Err(Code::UnknownReference);
    assert_eq!(bench.put::<Topic>("t", serde_json::json!({"broker": "rabbit"})).await, refused);
    assert_eq!(bench.put::<Route>("r", serde_json::json!({"topic": "t", "queue": "q"})).await, refused);
    assert_eq!(bench.put::<Subscription>("s", subscription("q", 1)).await, refused);
    bench.fill().await;
    assert_eq!(
        bench.put::<Subscription>("s", subscription("q", 2)).await,
        refused,
        "a version that is not there"
    );
    assert_eq!(bench.put::<Subscription>("second", subscription("q", 1)).await, Err(Code::InUse));
}

#[tokio::test]
async fn what_is_referred_to_stays() {
    let bench = open();
    bench.fill().await;
    bench.version("p", 2).await;
    let in_use = Err(Code::InUse);
    assert_eq!(bench.delete::<Topic>("t").await, in_use);
    assert_eq!(bench.delete::<Queue>("q").await, in_use);
    assert_eq!(bench.delete::<Plugin>("p").await, in_use);
    let used = bench.catalog.remove_version(&name("p"), &digest(1), None).await.unwrap_err();
    assert_eq!(code(&used), Code::InUse);
    bench.catalog.remove_version(&name("p"), &digest(2), None).await.unwrap();
    assert!(!bench.catalog.plugin_file(&digest(2)).exists());
    bench.delete::<Route>("r").await.unwrap();
    bench.delete::<Topic>("t").await.unwrap();
    assert_eq!(bench.delete::<Queue>("q").await, in_use, "of the subscription");
    bench.delete::<Subscription>("s").await.unwrap();
    bench.delete::<Queue>("q").await.unwrap();
    bench.catalog.remove_version(&name("p"), &digest(1), None).await.unwrap();
    assert!(bench.catalog.snapshot().plugins.is_empty(), "the last version takes the plugin along");
}

#[tokio::test]
async fn forwards_lead_to_topics_that_are_there_and_never_in_a_circle() {
    let bench = open();
    bench.fill().await;
    let queue = serde_json::json!({});
    for name in ["a", "b"] {
        bench.put::<Queue>(name, queue.clone()).await.unwrap();
    }
    bench.put::<Topic>("u", serde_json::json!({})).await.unwrap();
    let forward = |queue: &str, topic: &str| serde_json::json!({"queue": queue, "forward": {"topic": topic}});
    let route = |topic: &str, queue: &str| serde_json::json!({"topic": topic, "queue": queue});
    let refused = Err(Code::UnknownReference);
    assert_eq!(bench.put::<Subscription>("f", forward("a", "none")).await, refused);
    bench.put::<Subscription>("f", forward("a", "t")).await.unwrap();
    assert_eq!(bench.delete::<Topic>("t").await, Err(Code::InUse));
    let circle = Err(Code::InvalidDefinition);
    assert_eq!(bench.put::<Route>("x", route("t", "a")).await, circle, "straight back");
    bench.put::<Route>("x", route("t", "b")).await.unwrap();
    bench.put::<Route>("y", route("u", "a")).await.unwrap();
    assert_eq!(bench.put::<Subscription>("g", forward("b", "u")).await, circle, "by a queue in between");
    bench.put::<Topic>("v", serde_json::json!({})).await.unwrap();
    bench.put::<Subscription>("g", forward("b", "v")).await.unwrap();
    assert_eq!(bench.put::<Route>("z", route("v", "a")).await, circle, "by a route that comes later");
    // The same subscription with another queue, and the same route with another end, are judged as they will be.
    bench.put::<Route>("y", route("u", "q")).await.unwrap();
    bench.put::<Subscription>("g", forward("b", "u")).await.unwrap();
}

#[tokio::test]
async fn everything_survives_a_restart() {
    let bench = open();
    bench.fill().await;
    let before = bench.catalog.snapshot();
    let plugins = bench.dir.path().join("plugins");
    let again = Catalog::open(bench.store.clone(), plugins, Arc::new(SystemClock)).unwrap();
    let after = again.snapshot();
    assert_eq!(after.revision, before.revision);
    assert_eq!(after.subscriptions[&name("s")].value, before.subscriptions[&name("s")].value);
    assert_eq!(after.topics[&name("t")].value.broker, defaults::broker());
    assert_eq!(std::fs::read(again.plugin_file(&digest(1))).unwrap(), [1, 1, 1]);
}

#[tokio::test]
async fn two_operators_do_not_overwrite_each_other() {
    let bench = open();
    let first = bench.put::<Topic>("t", serde_json::json!({})).await.unwrap();
    assert_eq!(
        bench.put::<Topic>("t", serde_json::json!({})).await.unwrap(),
        first,
        "the same again changes nothing"
    );
    let topic = |text: &str| definition::<Topic>(serde_json::json!({"description": text}));
    let put = |text: &'static str, only_if| {
        let (catalog, topic) = (bench.catalog.clone(), topic(text));
        async move { catalog.put(&name("t"), topic, only_if, None).await.map(|put| put.entry.revision) }
    };
    let second = put("mine", Precondition::Revision(first)).await.unwrap();
    assert!(second > first);
    assert_eq!(code(&put("yours", Precondition::Revision(first)).await.unwrap_err()), Code::Changed);
    assert_eq!(code(&put("yours", Precondition::Absent).await.unwrap_err()), Code::Changed);
    put("yours", Precondition::Present).await.unwrap();
    let stale =
        bench.catalog.delete::<Topic>(&name("t"), Precondition::Revision(second), None).await.unwrap_err();
    assert_eq!(code(&stale), Code::Changed);
}

/// Changes that are each consistent alone must not be so together by coming at the same time.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_subscriptions_to_one_queue_one_wins() {
    let bench = open();
    bench.put::<Queue>("q", serde_json::json!({})).await.unwrap();
    bench.version("p", 1).await;
    let tasks: Vec<_> = (0..8)
        .map(|i| {
            let catalog = bench.catalog.clone();
            tokio::spawn(async move {
                let value = definition::<Subscription>(subscription("q", 1));
                catalog.put(&name(&format!("s{i}")), value, Precondition::None, None).await.is_ok()
            })
        })
        .collect();
    let mut won = 0;
    for task in tasks {
        won += usize::from(task.await.unwrap());
    }
    assert_eq!((won, bench.catalog.snapshot().subscriptions.len()), (1, 1));
}

#[tokio::test]
async fn a_put_without_a_state_keeps_the_state() {
    let bench = open();
    bench.fill().await;
    let mut paused = subscription("q", 1);
    paused["paused"] = true.into();
    bench.put::<Subscription>("s", paused).await.unwrap();
    let mut more = subscription("q", 1);
    more["workers"] = 3.into();
    bench.put::<Subscription>("s", more).await.unwrap();
    let subscription = bench.catalog.snapshot().subscriptions[&name("s")].value.clone();
    assert_eq!((subscription.workers, subscription.is_paused()), (3, true));
}

#[tokio::test]
async fn tokens_are_kept_hashed_and_the_last_admin_stays() {
    let bench = open();
    let secret = bench.catalog.create_token(&name("root"), Grant::of(Role::Admin), None).await.unwrap();
    let viewer = bench.catalog.create_token(&name("eyes"), Grant::of(Role::Viewer), None).await.unwrap();
    assert_eq!(
        bench.catalog.authenticate(&secret),
        Some((name("root"), Grant::of(Role::Admin).check().unwrap()))
    );
    assert_eq!(
        bench.catalog.authenticate(&viewer),
        Some((name("eyes"), Grant::of(Role::Viewer).check().unwrap()))
    );
    assert_eq!(bench.catalog.authenticate(&viewer[1..]), None);
    let taken = bench.catalog.create_token(&name("root"), Grant::of(Role::Viewer), None).await.unwrap_err();
    assert_eq!(code(&taken), Code::Changed);
    assert_eq!(bench.delete::<Token>("root").await, Err(Code::InUse));
    bench.catalog.create_token(&name("other"), Grant::of(Role::Admin), None).await.unwrap();
    bench.delete::<Token>("root").await.unwrap();
    assert_eq!(bench.catalog.authenticate(&secret), None);
    for row in bench.store.scan(b"", None) {
        let (_, value) = row.unwrap();
        let text = String::from_utf8_lossy(&value).into_owned();
        assert!(!text.contains(&viewer), "a secret lies in the store: {text}");
    }
}

#[tokio::test]
async fn a_secret_is_adopted_if_it_is_a_whole_one() {
    let bench = open();
    let secret = Token::new_secret().unwrap();
    assert_ne!(secret, Token::new_secret().unwrap());
    let digits = secret.strip_prefix("brolly_").unwrap();
    for wrong in [
        String::new(),
        "brolly_".to_owned(),
        digits.to_owned(),
        secret[..70].to_owned(),
        format!("{secret}0"),
        format!("{}g", &secret[..70]),
        format!("{secret}\n"),
        format!("Brolly_{digits}"),
    ] {
        let refused = bench
            .catalog
            .adopt_token(&name("first"), Grant::of(Role::Admin), &wrong, None)
            .await
            .unwrap_err();
        assert_eq!(code(&refused), Code::InvalidDefinition, "{wrong:?}");
        assert!(wrong.is_empty() || wrong == "brolly_" || !refused.to_string().contains(&wrong), "{refused}");
    }
    assert!(bench.catalog.snapshot().tokens.is_empty());
    bench.catalog.adopt_token(&name("first"), Grant::of(Role::Operator), &secret, None).await.unwrap();
    assert_eq!(
        bench.catalog.authenticate(&secret),
        Some((name("first"), Grant::of(Role::Operator).check().unwrap()))
    );
    let again = bench
        .catalog
        .adopt_token(&name("first"), Grant::of(Role::Admin), &Token::new_secret().unwrap(), None)
        .await;
    assert_eq!(code(&again.unwrap_err()), Code::Changed, "nobody takes over a name");
}

#[tokio::test]
async fn the_audit_log_has_every_change_and_no_secret() {
    let bench = open();
    let put = async |json, by: &str| {
        let value: BrokerDefinition = definition(json);
        bench.catalog.put(&name("b"), value, Precondition::None, Some(&name(by))).await.unwrap();
    };
    put(serde_json::json!({"kind": "amqp", "url": "amqp://me:pw-one@host/"}), "ann").await;
    put(serde_json::json!({"kind": "amqp", "url": "amqp://me:pw-two@host/"}), "bob").await;
    put(serde_json::json!({"kind": "amqp", "url": "amqp://me:pw-two@host/"}), "bob").await;
    bench.catalog.delete::<BrokerDefinition>(&name("b"), Precondition::None, None).await.unwrap();
    let secret =
        bench.catalog.create_token(&name("t"), Grant::of(Role::Viewer), Some(&name("ann"))).await.unwrap();
    let (records, next) = bench.catalog.audit(&Records::default(), None, 10).unwrap();
    let said: Vec<_> = records
        .iter()
        .map(|r| (r.number, r.by.as_ref().map(Name::as_str), r.action, r.kind.as_str()))
        .collect();
    assert_eq!(
        said,
        [
            (4, Some("ann"), Action::Create, "token"),
            (3, None, Action::Delete, "broker"),
            (2, Some("bob"), Action::Replace, "broker"),
            (1, Some("ann"), Action::Create, "broker"),
        ],
        "a change that changes nothing is none"
    );
    assert_eq!(next, None);
    let [_, deleted, replaced, made] = records.as_slice() else { panic!("{records:?}") };
    assert_eq!((&made.before, &deleted.after), (&None, &None));
    assert_eq!(made.after, replaced.before);
    let text = serde_json::to_string(&records).unwrap();
    assert!(text.contains("***") && !text.contains("pw-"), "{text}");
    assert!(!text.contains(&secret) && !text.contains("sha256"), "{text}");

    // Over a restart the numbers go on; filters and places.
    bench.store.close();
    let store = Store::open(&Config::new(bench.dir.path().join("store"))).unwrap();
    let catalog = Catalog::open(store, bench.dir.path().join("plugins"), Arc::new(SystemClock)).unwrap();
    catalog.record(Some(&name("bob")), Action::Replay, "subscription", &name("s"), "x".into()).await.unwrap();
    let find = |wanted: Records, before, limit| {
        let (found, next) = catalog.audit(&wanted, before, limit).unwrap();
        (found.iter().map(|record| record.number).collect::<Vec<_>>(), next)
    };
    assert_eq!(find(Records::default(), None, 2), (vec![5, 4], Some(4)));
    assert_eq!(find(Records::default(), Some(4), 2), (vec![3, 2], Some(2)));
    assert_eq!(find(Records { by: Some(name("bob")), ..Records::default() }, None, 9), (vec![5, 2], None));
    assert_eq!(find(Records { kind: Some("token".into()), ..Records::default() }, None, 9), (vec![4], None));
    assert_eq!(find(Records { name: Some(name("b")), ..Records::default() }, None, 9), (vec![3, 2, 1], None));
    assert_eq!(find(Records { without: Some("broker"), ..Records::default() }, None, 9), (vec![5, 4], None));
}

#[tokio::test]
async fn the_audit_log_is_bounded() {
    let bench = open();
    // As if there had been as many changes as are kept.
    let mut commit = brolly_core::Commit::default();
    for number in [1, 2, crate::audit::Audit::KEPT] {
        commit.put(keys::audit(number), b"{}".to_vec());
    }
    bench.store.commit(commit).await.unwrap();
    bench.store.close();
    let store = Store::open(&Config::new(bench.dir.path().join("store"))).unwrap();
    let catalog =
        Catalog::open(store.clone(), bench.dir.path().join("plugins"), Arc::new(SystemClock)).unwrap();
    catalog
        .record(None, Action::Discard, "subscription", &name("s"), "x".repeat(50_000).into())
        .await
        .unwrap();
    assert_eq!(store.get(&keys::audit(1)).unwrap(), None);
    assert!(store.get(&keys::audit(2)).unwrap().is_some());
    let (records, _) = catalog.audit(&Records::default(), None, 1).unwrap();
    assert_eq!(records[0].after, Some(serde_json::json!({"omitted_bytes": 50_002})));
}

#[tokio::test]
async fn a_plugin_has_at_most_200_versions() {
    let bench = open();
    for byte in 0..200 {
        bench.version("p", byte).await;
    }
    let one_more = bench.add_version("p", 200).await.unwrap_err();
    assert_eq!(code(&one_more), Code::InvalidDefinition);
    assert!(one_more.to_string().contains("200 versions, the limit; delete some"), "{one_more}");
    bench.version("p", 199).await;
    bench.catalog.remove_version(&name("p"), &digest(0), None).await.unwrap();
    bench.version("p", 200).await;
}

#[tokio::test]
async fn a_definition_takes_at_most_112_kib() {
    let bench = open();
    let described = async |bytes: usize| {
        bench.put::<Topic>("t", serde_json::json!({"description": "d".repeat(bytes)})).await
    };
    described(1).await.unwrap();
    let (around, limit) = (bench.row_bytes("t") - 1, brolly_store::VALUE_BYTES);
    // The row also says when it was made and changed, and its number: all of fixed length here.
    described(limit - around).await.unwrap();
    assert_eq!(bench.row_bytes("t"), limit);
    assert_eq!(described(limit - around + 1).await, Err(Code::TooLarge));
    assert_eq!(bench.row_bytes("t"), limit, "nothing has changed");
}

#[tokio::test]
async fn there_are_at_most_100_000_definitions_of_a_kind() {
    let mut bench = open();
    bench.put::<Topic>("t", serde_json::json!({})).await.unwrap();
    let row = bench.store.get(&keys::catalog("topic", &name("t"))).unwrap().unwrap().to_vec();
    for thousand in 0..100 {
        let mut commit = brolly_core::Commit::default();
        for number in 0..1_000 {
            commit.put(keys::catalog("topic", &name(&format!("t{thousand}-{number}"))), row.clone());
        }
        bench.store.commit(commit).await.unwrap();
    }
    bench.reopen();
    let more = async |bench: &Bench, at: &str| bench.put::<Topic>(at, serde_json::json!({})).await;
    assert_eq!(more(&bench, "more").await, Err(Code::InvalidDefinition), "there are 100,001");
    for one in ["t", "t0-0"] {
        bench.delete::<Topic>(one).await.unwrap();
    }
    more(&bench, "more").await.unwrap();
    assert_eq!(more(&bench, "yet-another").await, Err(Code::InvalidDefinition));
    bench.put::<Queue>("more", serde_json::json!({})).await.unwrap();
}
