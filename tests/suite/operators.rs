//! What an operator was answered is there after a kill -9, and costs no order, whatever was under way.

use std::{collections::BTreeMap, time::Duration};

use brolly_tests::{
    flow::{self, Flow},
    orders,
    server::{Server, another_version, plugin_bytes},
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::crash::{BATCH, ORDERS};

const KILLS: usize = 12;
/// Definitions of a kind that are made, changed and deleted.
const NAMES: u32 = 3;
/// What is swapped and paused while orders flow.
const SUBSCRIPTION: &str = "/subscriptions/settlement";

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_was_answered_survives_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path()).await;
    server.set_up_samples().await;
    let flow = Flow::of(&server, orders::multiplied(ORDERS * KILLS), BATCH, Duration::ZERO);
    let mut operator = Operator::of(&server).await;
    for kill in 0..KILLS {
        let after = Duration::from_millis(fastrand::u64(30..700));
        let (cut, ()) = tokio::join!(operator.work(&server), async {
            tokio::time::sleep(after).await;
            server.shoot();
        });
        eprintln!("kill {} of {KILLS}, after {} changes: {cut}", kill + 1, operator.changes);
        server.kill().await;
        server = Server::start(dir.path()).await;
        flow.follow(&server);
        operator.check(&server).await;
    }
    assert!(operator.changes > KILLS / 2, "{} changes", operator.changes);
    server.post(&format!("{SUBSCRIPTION}/resume")).await;
    let orders = flow.finish(&server).await;
    flow::exact(&server, &orders).await;
    assert_eq!(server.terminate().await, Some(0));
}

/// Somebody who changes what they like.
struct Operator {
    /// By path and field: what the last answered change made of it, and what those that were cut off since may
    /// have; null is nothing.
    may_be: BTreeMap<(String, &'static str), Vec<Value>>,
    /// How many were answered.
    changes: usize,
}

impl Operator {
    /// One who knows how the subscription is before anything changes.
    async fn of(server: &Server) -> Self {
        let subscription = server.get(SUBSCRIPTION).await;
        let known = |field| ((SUBSCRIPTION.to_owned(), field), vec![subscription[field].clone()]);
        Self { may_be: ["version", "paused"].map(known).into(), changes: 0 }
    }

    /// Goes on until no answer comes, and says why none came.
    async fn work(&mut self, server: &Server) -> reqwest::Error {
        loop {
            let done = match fastrand::u8(0..12) {
                0 => self.swap(server).await,
                1 => self.pause(server, true).await,
                2 | 3 => self.pause(server, false).await,
                4 => replay(server).await,
                _ => self.define(server).await,
            };
            match done {
                Ok(()) => self.changes += 1,
                Err(error) => return error,
            }
        }
    }

    /// Makes, changes or deletes a topic or a queue.
    async fn define(&mut self, server: &Server) -> reqwest::Result<()> {
        let kind = fastrand::choice(["topics", "queues"]).unwrap();
        let path = format!("/{kind}/edited-{}", fastrand::u32(0..NAMES));
        let owners = json!([{"name": fastrand::u64(..).to_string()}]);
        let wanted = fastrand::choice([Value::Null, owners]).unwrap();
        let may_be = self.may_be.entry((path.clone(), "owners")).or_insert_with(|| vec![Value::Null]);
        let absent = may_be.contains(&Value::Null);
        may_be.push(wanted.clone());
        let request = match &wanted {
            Value::Null => server.request(Method::DELETE, &path),
            owners => server.request(Method::PUT, &path).json(&json!({"owners": owners})),
        };
        let status = server.try_send(request).await?.status;
        assert!(status.is_success() || (wanted.is_null() && absent && status == 404), "{path}: {status}");
        *may_be = vec![wanted];
        Ok(())
    }

    /// Uploads one more version, and has the subscription handled by it.
    async fn swap(&mut self, server: &Server) -> reqwest::Result<()> {
        let wasm = another_version(plugin_bytes("settlement"), &fastrand::u64(..).to_string());
        let request = server.request(Method::POST, "/plugins/settlement/versions").body(wasm);
        let version = server.try_send(request).await?.ok()["digest"].clone();
        let body = json!({"queue": "settlement", "plugin": "settlement", "version": version});
        self.set("version", version, server, server.request(Method::PUT, SUBSCRIPTION).json(&body)).await
    }

    async fn pause(&mut self, server: &Server, paused: bool) -> reqwest::Result<()> {
        let path = format!("{SUBSCRIPTION}/{}", if paused { "pause" } else { "resume" });
        self.set("paused", paused.into(), server, server.request(Method::POST, &path)).await
    }

    /// Changes a field of the subscription.
    async fn set(
        &mut self,
        field: &'static str,
        wanted: Value,
        server: &Server,
        request: reqwest::RequestBuilder,
    ) -> reqwest::Result<()> {
        let may_be = self.may_be.entry((SUBSCRIPTION.to_owned(), field)).or_default();
        may_be.push(wanted.clone());
        server.try_send(request).await?.ok();
        *may_be = vec![wanted];
        Ok(())
    }

    /// Everything is as one of the changes made it that it may be of.
    async fn check(&mut self, server: &Server) {
        for ((path, field), may_be) in &mut self.may_be {
            let answer = server.call(Method::GET, path, None).await;
            let found = if answer.status == 404 { Value::Null } else { answer.ok()[*field].clone() };
            assert!(may_be.contains(&found), "{field} of {path} is {found}, and may be one of {may_be:?}");
            *may_be = vec![found];
        }
    }
}

/// Sends all that settlement has rejected back to it, which rejects it again.
async fn replay(server: &Server) -> reqwest::Result<()> {
    let request = server.request(Method::POST, &format!("{SUBSCRIPTION}/dead-letters/replay"));
    server.try_send(request.json(&json!({"all": true}))).await?.ok();
    Ok(())
}
