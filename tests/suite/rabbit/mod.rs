//! Brolly over a real RabbitMQ: the contract, the real orders through every incident, other programs
//! beside it, and mistakes of its operators.

mod contract;
mod incidents;
mod mistakes;
mod neighbours;
mod orders;
mod set_up;

use brolly_tests::{flow, rabbit::Rabbit, server::Server, skip};
use serde_json::{Value, json};

/// A server for a test, unless there is none on this machine.
pub(crate) async fn rabbit(what: &str) -> Option<Rabbit> {
    match Rabbit::available() {
        Ok(()) => Some(Rabbit::start().await),
        Err(why) => {
            skip(what, &why);
            None
        }
    }
}

/// A host with the broker `rabbit` at this address.
async fn host(dir: &std::path::Path, url: &str, more: Value) -> Server {
    let mut server = Server::start(dir).await;
    let mut definition = json!({"kind": "amqp", "url": url, "heartbeat_s": 2});
    definition.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    server.put("/brokers/rabbit", definition).await;
    server.home = json!({"broker": "rabbit"});
    server
}

/// Waits until the broker is in this state.
async fn broker_is(server: &Server, state: &str) -> Value {
    flow::broker_is(server, "rabbit", state).await
}
