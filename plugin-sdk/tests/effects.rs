//! What a handler does through the host, and when it takes effect.

use brolly_plugin::{
    Delivery, Failure, config, log, publish, state,
    testing::{Attempt, Harness, Limits, Outcome},
};

fn run(harness: &mut Harness, handler: impl FnOnce() -> Result<(), Failure>) -> Attempt {
    harness.delivery("").run(|_: Delivery| handler())
}

fn write_and_publish() {
    state::set("a", "new");
    state::delete("b");
    publish::Message::new("out").id("m").text("x").send();
    log::warn!("wrote {}", "a");
}

#[test]
fn effects_take_place_if_and_only_if_the_outcome_is_ack() {
    type End = fn() -> Result<(), Failure>;
    let ends: [(&str, End); 4] = [
        ("ack", || Ok(())),
        ("retry", || Err(Failure::retry("later"))),
        ("reject", || Err(Failure::reject("never"))),
        ("fault", || panic!("broken")),
    ];
    for (name, end) in ends {
        let mut harness = Harness::new().with_state("a", "old").with_state("b", "old");
        let attempt = run(&mut harness, || {
            write_and_publish();
            assert_eq!((state::get("a").as_deref(), state::get("b")), (Some(&b"new"[..]), None));
            end()
        });
        let acked = name == "ack";
        assert_eq!(attempt.is_ack(), acked, "{name}");
        assert_eq!(attempt.published.len(), usize::from(acked), "{name}");
        assert_eq!(harness.state("a"), Some(if acked { &b"new"[..] } else { &b"old"[..] }), "{name}");
        assert_eq!(harness.state("b").is_none(), acked, "{name}");
        assert!(attempt.logged(log::Level::Warn, "wrote a"), "{name}");
    }
}

#[test]
fn lists_merge_what_was_there_with_what_is_written() {
    let mut harness =
        Harness::new().with_state("p/1", "").with_state("p/3", "").with_state("q", "").with_state("o", "");
    let attempt = run(&mut harness, || {
        state::set("p/2", "");
        state::delete("p/3");
        state::set("p/4", "");
        let keys =
            |entries: Vec<state::Entry>| entries.into_iter().map(|entry| entry.key).collect::<Vec<_>>();
        assert_eq!(keys(state::list("p/").collect()), ["p/1", "p/2", "p/4"]);
        assert_eq!(keys(state::page("p/", Some("p/1"), 1)), ["p/2"]);
        assert_eq!(keys(state::page("p/", Some("a"), 9)), ["p/1", "p/2", "p/4"]);
        assert_eq!(keys(state::page("p/", Some("z"), 9)), [""; 0]);
        assert_eq!(keys(state::page("", None, 9)), ["o", "p/1", "p/2", "p/4", "q"]);
        Ok(())
    });
    attempt.assert_ack();
}

#[test]
fn long_lists_come_whole_and_once() {
    for count in [0, 1, 99, 100, 101, 200, 250] {
        let keys: Vec<String> = (0..count).map(|n| format!("k{n:04}")).collect();
        let mut harness = keys.iter().fold(Harness::new(), |harness, key| harness.with_state(key, "v"));
        let attempt = run(&mut harness, || {
            let listed: Vec<String> = state::list("k").map(|entry| entry.key).collect();
            assert_eq!(listed, keys);
            Ok(())
        });
        attempt.assert_ack();
    }
}

#[test]
fn json_state() {
    let mut harness = Harness::new().with_state("text", "x");
    let attempt = run(&mut harness, || {
        assert_eq!(state::get_json::<u32>("n")?, None);
        assert_eq!(state::update_json("n", |n: &mut u32| *n += 2)?, 2);
        assert_eq!(state::update_json("n", |n: &mut u32| *n *= 5)?, 10);
        state::get_json::<u32>("text").map(drop)
    });
    attempt.assert_retry("the state under \"text\": expected value at line 1 column 1");
    assert_eq!(harness.state_json("n"), serde_json::Value::Null);
}

#[test]
fn configuration() {
    let mut harness = Harness::new().config("n", "5").config("bad", "five");
    let attempt = run(&mut harness, || {
        assert_eq!((config::get("n").as_deref(), config::get("m")), (Some("5"), None));
        assert_eq!((config::parse::<u8>("n")?, config::parse::<u8>("m")?), (Some(5), None));
        assert_eq!(config::require("m"), Err(Failure::retry("configuration m is missing")));
        config::parse::<u8>("bad").map(drop)
    });
    attempt.assert_retry("configuration bad is \"five\": invalid digit");
}

/// Both ends of each rule: what is said, with one more than is allowed and with what is allowed.
#[test]
fn breaking_a_rule_ends_the_attempt() {
    let message = || publish::Message::new("out");
    let x = |n: usize| "x".repeat(n);
    check("the state key is empty", |over| drop(state::get(if over { "" } else { "a" })));
    check("the state key: 513 bytes", |over| state::set(&x(512 + usize::from(over)), ""));
    check("control character", |over| state::delete(if over { "a\n" } else { "a" }));
    check("the state value: 65537 bytes", |over| state::set("a", x(65_536 + usize::from(over))));
    check("a list of 1001 entries", |over| drop(state::page("", None, 1_000 + u32::from(over))));
    check("more than 100 keys of state", |over| {
        (0..100 + u8::from(over)).for_each(|n| state::set(&n.to_string(), ""))
    });
    check("bytes of state written, the limit is 1048576", |over| {
        (0..16).for_each(|n| state::set(&format!("{n:02}"), x(65_536 - 2)));
        if over {
            state::set("z", "");
        }
    });
    check("is no name of a topic", |over| {
        publish::Message::new(if over { "no name!" } else { "Name.1_-" }).send()
    });
    check("is no name of a topic", |over| publish::Message::new(if over { "" } else { "1" }).send());
    check("is no name of a topic", |over| publish::Message::new(x(128 + usize::from(over))).send());
    check("the id is empty", |over| message().id(if over { "" } else { "i" }).send());
    check("the id: 257 bytes", |over| message().id(x(256 + usize::from(over))).send());
    check("the key: 256 bytes", |over| message().key(x(255 + usize::from(over))).send());
    check("the content type: 256 bytes", |over| message().bytes("", x(255 + usize::from(over))).send());
    check("the headers: 32769 bytes", |over| message().header("h", x(32_767 + usize::from(over))).send());
    check("there are 129 headers", |over| {
        (0..128 + u8::from(over)).fold(message(), |message, n| message.header(n.to_string(), "")).send();
    });
    check("empty name", |over| message().header(if over { "" } else { "h" }, "").send());
    check("the header \"h\" is there twice", |over| {
        let mut message = message().header("h", "1").header("h", "2");
        if over {
            message.headers.extend(message.headers.clone());
        }
        message.send();
    });
    check("more than 100 messages", |over| (0..100 + u8::from(over)).for_each(|_| message().send()));
    check("1048577 bytes published", |over| message().text(x((1 << 20) + usize::from(over))).send());
}

#[track_caller]
fn check(part: &str, act: impl Fn(bool)) {
    let attempt = |over| {
        run(&mut Harness::new(), || {
            act(over);
            Ok(())
        })
    };
    attempt(false).assert_ack();
    attempt(true).assert_fault(part);
}

#[test]
fn limits_are_those_of_the_subscription() {
    let limits = Limits { publish_messages: 1, publish_bytes: 17 << 20, state_writes: 0, state_bytes: 0 };
    let mut harness = Harness::new().limits(limits);
    let mut publish = |count: usize, bytes: usize| {
        run(&mut harness, || {
            (0..count).for_each(|_| publish::Message::new("out").bytes(vec![0; bytes], "").send());
            Ok(())
        })
    };
    publish(1, 16 << 20).assert_ack();
    publish(1, (16 << 20) + 1).assert_fault("the payload: 16777217 bytes");
    publish(2, 0).assert_fault("more than 1 messages");
    let write = || {
        state::delete("a");
        Ok(())
    };
    run(&mut harness, write).assert_fault("more than 0 keys of state");
}

#[test]
fn only_granted_topics_are_published_to() {
    let mut harness = Harness::new().grant_publish(["coupons"]);
    let mut publish_to = |topic: &str| {
        run(&mut harness, || {
            publish::Message::new(topic).send();
            Ok(())
        })
    };
    publish_to("coupons").assert_ack();
    publish_to("orders").assert_fault("not granted: to publish to \"orders\"");
}

#[test]
fn a_harness_within_a_handler_is_another_subscription() {
    let attempt = run(&mut Harness::new(), || {
        state::set("outer", "");
        run(&mut Harness::new(), || {
            assert_eq!(state::get("outer"), None);
            Ok(())
        })
        .assert_ack();
        assert!(state::get("outer").is_some());
        Ok(())
    });
    assert_eq!(attempt.outcome, Outcome::Ack);
}

#[test]
#[should_panic(expected = "outside of a handler")]
fn calls_outside_of_a_handler_are_mistakes() {
    drop(state::get("a"));
}
