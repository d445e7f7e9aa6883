//! Many messages while the connection breaks again and again.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use brolly_core::{Broker, Consume, Order, Settlement, Source};
use brolly_remote::Remote;
use parking_lot::Mutex;

use crate::{
    bench::{Bench, eventually, message, name, server},
    proxy::Proxy,
};

/// What the handlers of this test see.
#[derive(Default)]
struct Seen {
    over: AtomicBool,
    handled: Mutex<BTreeSet<String>>,
    taken: Mutex<u64>,
}

/// Consumes anew whenever a consumption ends.
async fn consume(broker: Arc<Remote>, seen: Arc<Seen>) {
    while !seen.over.load(Ordering::Relaxed) {
        let consume = Consume { order: Order::None, max_in_flight: 200 };
        match broker.consume(&name("q"), consume).await {
            Ok(source) => {
                handle(&*source, &seen).await;
                source.close();
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Settles most, and has every seventh come again.
async fn handle(source: &dyn Source, seen: &Seen) {
    while !seen.over.load(Ordering::Relaxed) {
        match tokio::time::timeout(Duration::from_millis(200), source.ready()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return,
            Err(_) => continue,
        }
        let Ok(Some(delivery)) = source.take() else { continue };
        let number = {
            let mut taken = seen.taken.lock();
            *taken += 1;
            *taken
        };
        if number % 7 == 0 && delivery.attempts == 0 {
            let retry = Settlement::Retry { delay: Duration::from_millis(number % 300), attempts: 1 };
            source.settle(delivery.lease, retry);
        } else {
            seen.handled.lock().insert(delivery.message.id.clone());
            source.settle(delivery.lease, Settlement::Ack);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_while_the_connection_breaks_again_and_again() {
    let Some(url) = server("storm").await else { return };
    let proxy = Proxy::to(&url).await;
    let mut bench = Bench::start(&proxy.url, serde_json::json!({"heartbeat_s": 2}));
    bench.topic("t");
    bench.queue("q", |_| {});
    bench.route("r", "t", "q", |_| {});
    bench.connected().await;
    bench.configure().await;
    let seen = Arc::new(Seen::default());
    let consuming = tokio::spawn(consume(bench.broker.clone(), seen.clone()));
    let cutting = tokio::spawn(async move {
        for _ in 0..8 {
            tokio::time::sleep(Duration::from_millis(1_100)).await;
            proxy.cut();
        }
        proxy
    });
    let (mut wanted, mut tries, mut parts) = (BTreeSet::new(), 0, 0);
    while !cutting.is_finished() && parts < 2_000 {
        let ids: Vec<String> = (0..25).map(|n| format!("m{parts}-{n}")).collect();
        parts += 1;
        // A publisher tries again, under the same ids, until it is told that all is well.
        loop {
            tries += 1;
            let messages = ids.iter().map(|id| message(id)).collect();
            if bench.broker.publish(&name("t"), messages).await.is_ok() {
                break;
            }
        }
        wanted.extend(ids);
    }
    let _proxy = cutting.await.unwrap();
    eventually("all are handled", || async { (*seen.handled.lock() == wanted).then_some(()) }).await;
    bench.until_counts("q", (0, 0, 0)).await;
    seen.over.store(true, Ordering::Relaxed);
    consuming.await.unwrap();
    println!(
        "{} messages in {parts} publishes and {tries} tries, taken {} times",
        wanted.len(),
        seen.taken.lock()
    );
    bench.end().await;
}
