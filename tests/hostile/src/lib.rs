//! A guest that misbehaves in the way that its configuration asks for, so that tests can hold the
//! host to its promises. Built to `target/test-plugins/hostile.wasm`; made with the SDK like any
//! other plugin, because that is what an attacker would have at least.
//!
//! `mode` names what it does; the payload is raw. Numbers in brackets are the defaults of further
//! configuration.
//!
//! | mode | what the guest does |
//! | --- | --- |
//! | `ok` | nothing: acknowledges |
//! | `loop` | computes for ever |
//! | `loop_calls` | calls the host for ever (reads its configuration) |
//! | `recurse` | calls itself until the call stack is used up |
//! | `recurse_memory` | the same with frames in linear memory |
//! | `memory` | allocates without end, a mebibyte at a time, and touches it |
//! | `memory_grow` | asks for `bytes` (1 GiB) of memory at once and acknowledges if it gets it |
//! | `trap` | executes `unreachable` without a word |
//! | `panic` | panics with the message "hostile panic" |
//! | `overflow` | an arithmetic overflow |
//! | `log` | writes `count` (10,000) lines of `bytes` (1,024) |
//! | `log_huge` | writes one line of `bytes` (8 MiB) |
//! | `publish_many` | publishes `count` (100,000) small messages to `topic` (`hostile.out`) |
//! | `publish_big` | publishes one message of `bytes` (32 MiB) to `topic` |
//! | `publish_field` | publishes one message whose `field` (id, key, content_type, header) has `bytes` (1,024) |
//! | `bad_topic` | publishes to `topic` (`not a name!`) |
//! | `state_many` | writes `count` (100,000) keys |
//! | `state_big` | writes a value of `bytes` (65,537) |
//! | `state_many_big` | writes `count` (1,000) values of 60,000 bytes |
//! | `state_key` | writes under a key of `bytes` (513) |
//! | `state_key_control` | writes under a key with a control character |
//! | `state_key_empty` | writes under the empty key |
//! | `state_list` | lists with `limit` (1,001) |
//! | `state_then_trap`, `state_then_retry`, `state_then_reject` | adds 1 to `n`, publishes to `topic`, then fails |
//! | `bad_utf8_log`, `bad_utf8_key`, `bad_utf8_config`, `bad_utf8_reason` | hands the host text that is no UTF-8 |
//! | `bad_pointer` | hands the host a text that lies outside of its memory |
//! | `retry` | answers retry, with `delay_ms` if set |
//! | `reject` | answers reject |
//! | `long_reason` | answers retry with a reason of `bytes` (1 MiB) |
//! | `slow` | computes for about `rounds` (1,000,000) rounds, then acknowledges |
//! | `counter` | adds 1 to the decimal number under the state key `n` |
//! | `echo` | publishes the payload to `topic` with key `key` (the delivery's own) |
//! | `fail_until` | answers retry until the attempt is `attempt` (3), then acts as `counter` |
//! | `memory_counter` | logs how many deliveries this instance has had, then acknowledges |
//! | `request` | sends `method` (GET) to `url` with a body of `bytes` (0) and the header `header` (`name: value`), `count` (1) times; publishes status, and a header `show`, and the body, each in a line, to `topic` |
//! | `times` | reads both clocks and waits `ms` (0) between; publishes the two times and the time that passed |
//! | `time_loop` | reads the clock for ever |
//! | `dice` | draws `bytes` (8) random bytes by `count` (1) calls and publishes them to `topic` as hex |
//! | `everything` | uses state, both clocks, random numbers and a request to `url`, and rejects with all of it as the reason |
//! | `settle` | settles orders as the sample does at 15 %, a cent too much on the day `wrong_day` |
//! | `needs` | cannot reach what the payload names if that is `down` |
//! | `describe` | logs every field of the delivery, one a line |

mod host_calls;
mod reach;
mod resources;
mod settles;

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use brolly_plugin::{Delivery, Failure, config, handler, log, publish, state};

fn needs(delivery: &Delivery) -> Result<(), Failure> {
    let (down, named) = (config::require("down")?, String::from_utf8_lossy(&delivery.payload.0));
    if down.is_empty() || !named.contains(&down) {
        return Ok(());
    }
    let reason = format_args!("the {down} answers 503");
    Err(Failure::unreachable(&*down, reason))
}

#[handler]
fn handle(delivery: Delivery) -> Result<(), Failure> {
    let mode = config::require("mode")?;
    match mode.as_str() {
        "ok" => Ok(()),
        "counter" => count(),
        "echo" => echo(delivery),
        "settle" => settles::settle(&delivery.payload.0),
        "needs" => needs(&delivery),
        "describe" => describe(&delivery),
        "memory_counter" => count_in_memory(),
        "fail_until" if delivery.attempt < number("attempt", 3)? => Err(Failure::retry("not yet")),
        "fail_until" => count(),
        "retry" => match config::parse("delay_ms")? {
            Some(delay) => Err(Failure::retry_after("asked to retry", Duration::from_millis(delay))),
            None => Err(Failure::retry("asked to retry")),
        },
        "reject" => Err(Failure::reject("asked to reject")),
        "long_reason" => Err(Failure::retry("r".repeat(number("bytes", 1 << 20)?))),
        "state_then_trap" => effects().and_then(|()| resources::trap()),
        "state_then_retry" => effects().and(Err(Failure::retry("asked to retry"))),
        "state_then_reject" => effects().and(Err(Failure::reject("asked to reject"))),
        other => match resources::run(other).or_else(|| host_calls::run(other)).or_else(|| reach::run(other))
        {
            Some(result) => result,
            None => Err(Failure::reject(format_args!("there is no mode {other:?}"))),
        },
    }
}

/// A number from the configuration.
fn number<T: std::str::FromStr>(name: &str, default: T) -> Result<T, Failure>
where
    T::Err: std::fmt::Display,
{
    Ok(config::parse(name)?.unwrap_or(default))
}

/// The topic from the configuration.
fn topic() -> String {
    config::get("topic").unwrap_or_else(|| "hostile.out".to_owned())
}

fn count() -> Result<(), Failure> {
    state::update_json("n", |n: &mut u64| *n += 1).map(drop)
}

/// Something of everything that must not take effect.
fn effects() -> Result<(), Failure> {
    publish::Message::new(topic()).text("this must not be seen").send();
    log::info!("wrote and published");
    count()
}

fn echo(delivery: Delivery) -> Result<(), Failure> {
    let key = config::get("key").unwrap_or(delivery.key);
    publish::Message::new(topic()).key(key).bytes(delivery.payload.0, delivery.content_type).send();
    Ok(())
}

fn describe(delivery: &Delivery) -> Result<(), Failure> {
    log::info!("id={}", delivery.id);
    log::info!("topic={}", delivery.topic);
    log::info!("key={}", delivery.key);
    log::info!("content_type={}", delivery.content_type);
    for header in &delivery.headers {
        log::info!("header {}={}", header.name, header.value);
    }
    log::info!("published_at_ms={}", delivery.published_at_ms);
    log::info!("payload={}", delivery.payload.text().unwrap_or("not text"));
    log::info!("subscription={}", delivery.subscription);
    log::info!("attempt={} last={}", delivery.attempt, delivery.last_attempt);
    log::info!("idempotency_key={}", delivery.idempotency_key);
    Ok(())
}

/// Shows whether an instance serves more than one delivery.
fn count_in_memory() -> Result<(), Failure> {
    static DELIVERIES: AtomicU64 = AtomicU64::new(0);
    log::info!("deliveries of this instance: {}", DELIVERIES.fetch_add(1, Ordering::Relaxed) + 1);
    Ok(())
}
