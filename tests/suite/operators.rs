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

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_was_answered_survives_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path()).await;
    server.set_up_samples().await;
    let flow = Flow::of(&server, orders::multiplied(ORDERS * KILLS), BATCH, Duration::ZERO);
    let mut operator = Operator::default();
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
    server.post("/subscriptions/settlement/resume").await;
    let orders = flow.finish(&server).await;
    flow::exact(&server, &orders).await;
    assert_eq!(server.terminate().await, Some(0));
}

/// Somebody who changes what they like.
#[derive(Default)]
struct Operator {
    /// By path: what the last answered change made of it, and what those that were cut off since may have; null is
    /// nothing.
    may_be: BTreeMap<String, Vec<Value>>,
    /// How many were answered.
    changes: usize,
}

impl Operator {
    /// Goes on until no answer comes, and says why none came.
    async fn work(&mut self, server: &Server) -> reqwest::Error {
        loop {
            let done = match fastrand::u8(0..12) {
                0 => self.upload(server).await,
                1 => self.post(server, "/subscriptions/settlement/pause", None).await,
                2 | 3 => self.post(server, "/subscriptions/settlement/resume", None).await,
                4 => {
                    let all = Some(json!({"all": true}));
                    self.post(server, "/subscriptions/settlement/dead-letters/replay", all).await
                }
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
        let before = self.may_be.entry(path.clone()).or_insert_with(|| vec![Value::Null]);
        let absent = before.contains(&Value::Null);
        before.push(wanted.clone());
        let request = match &wanted {
            Value::Null => server.request(Method::DELETE, &path),
            owners => server.request(Method::PUT, &path).json(&json!({"owners": owners})),
        };
        let status = server.try_send(request).await?.status;
        assert!(status.is_success() || (wanted.is_null() && absent && status == 404), "{path}: {status}");
        self.may_be.insert(path, vec![wanted]);
        Ok(())
    }

    /// Uploads one more version, and has the subscription handled by it.
    async fn upload(&mut self, server: &Server) -> reqwest::Result<()> {
        let wasm = another_version(plugin_bytes("settlement"), &fastrand::u64(..).to_string());
        let request = server.request(Method::POST, "/plugins/settlement/versions").body(wasm);
        let uploaded = server.try_send(request).await?.ok();
        let version = uploaded["digest"].as_str().unwrap();
        let body = json!({"queue": "settlement", "plugin": "settlement", "version": version});
        let path = "/subscriptions/settlement";
        self.may_be.entry(path.to_owned()).or_default().push(version.into());
        server.try_send(server.request(Method::PUT, path).json(&body)).await?.ok();
        self.may_be.insert(path.to_owned(), vec![version.into()]);
        Ok(())
    }

    async fn post(&self, server: &Server, path: &str, body: Option<Value>) -> reqwest::Result<()> {
        let mut request = server.request(Method::POST, path);
        if let Some(body) = body {
            request = request.json(&body);
        }
        server.try_send(request).await?.ok();
        Ok(())
    }

    /// Everything is as one of the changes made it that it may be of.
    async fn check(&mut self, server: &Server) {
        for (path, may_be) in &mut self.may_be {
            let answer = server.call(Method::GET, path, None).await;
            let found = match (answer.status.as_u16(), path.contains("subscriptions")) {
                (404, _) => Value::Null,
                (_, true) => answer.ok()["version"].clone(),
                (_, false) => answer.ok()["owners"].clone(),
            };
            assert!(may_be.contains(&found), "{path} is {found}, and may be one of {may_be:?}");
            *may_be = vec![found];
        }
    }
}
