//! P7: what a message costs where there are many routes and subscriptions that it does not concern, against
//! where there are few.

use std::time::Duration;

use brolly_core::{Name, Queue, Route, Subscription, Topic};
use brolly_dispatch::{Definition, Precondition, State};
use brolly_store::Engine;
use serde_json::json;

use crate::{
    embedded::{flow, on_tokio},
    host::{Host, Place, definition},
    report::{Goal, Row},
    runtime,
};

const ROUNDS: usize = 5;
/// Routes and subscriptions, of both sides.
const MANY: [usize; 2] = [10_000, 1_000];
const FEW: [usize; 2] = [10, 10];
const POLL: Duration = Duration::from_millis(20);
/// Of the routes, one in so many begins at the topic of the messages; none but one fits them.
const AT_THE_TOPIC: usize = 10;

/// P7.
pub fn many(engines: &[Engine]) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for engine in engines {
        let (mut ours, mut few) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            ours.push(on_tokio(cost(*engine, MANY, round))?);
            few.push(on_tokio(cost(*engine, FEW, round))?);
        }
        let what = format!(
            "embedded, {engine}, publish -> handled by a reused instance and durable: with {} routes and {} \
             subscriptions / with {} and {}",
            MANY[0], MANY[1], FEW[0], FEW[1]
        );
        rows.push(Row::new("P7", what, "us/message", Goal::AtMost(1.2), &mut ours, &mut few));
    }
    Ok(rows)
}

/// Microseconds for each message, at full load.
async fn cost(engine: Engine, [routes, subscriptions]: [usize; 2], round: usize) -> anyhow::Result<f64> {
    let dir = tempfile::tempdir()?;
    let host = Host::start(dir.path(), engine, &runtime::plugin()?, "reuse", Place::Embedded).await?;
    furnish(&host, routes, subscriptions).await?;
    Ok(1e6 / flow(&host, round).await?)
}

/// Adds topics, queues, subscriptions and routes to those of the host, up to these numbers.
async fn furnish(host: &Host, routes: usize, subscriptions: usize) -> anyhow::Result<()> {
    let settlement = Name::new("settlement")?;
    let wanted = host.handle.get::<Subscription>(&settlement)?.value;
    let others: Vec<Name> =
        (1..subscriptions).map(|at| Name::new(&format!("other-{at:04}"))).collect::<Result<_, _>>()?;
    for name in &others {
        put::<Topic>(host, name, definition(json!({}))?).await?;
        put::<Queue>(host, name, definition(json!({}))?).await?;
        let subscription = Subscription { queue: name.clone(), workers: 1, ..(*wanted).clone() };
        put(host, name, subscription).await?;
    }
    for at in 1..routes {
        let Some(other) = others.get(at % others.len()) else { continue };
        let topic = if at % AT_THE_TOPIC == 0 { "orders.paid" } else { other.as_str() };
        let route = json!({"topic": topic, "queue": other, "key_pattern": format!("elsewhere.{at}.#"),
            "filter": "payload.amount_cents > 0"});
        put::<Route>(host, &Name::new(&format!("route-{at:05}"))?, definition(route)?).await?;
    }
    // By the door, so that all of it is taken up: each of the others alone would be, too.
    host.handle.put::<Topic>(&Name::new("the-last")?, definition(json!({}))?, Precondition::None).await?;
    while host.handle.list::<Subscription>(None, usize::MAX).items.iter().any(|(name, _)| !runs(host, name)) {
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

fn runs(host: &Host, name: &Name) -> bool {
    host.handle.status(name).is_ok_and(|status| status.state == State::Running)
}

async fn put<T: Definition>(host: &Host, name: &Name, value: T) -> anyhow::Result<()> {
    host.catalog.put(name, value, Precondition::None, None).await?;
    Ok(())
}
