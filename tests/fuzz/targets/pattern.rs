//! Patterns: all routes at once lead a key to the same queues as a plain reading of each pattern does.
//!
//! The first line is the key, every further one a pattern.
#![no_main]

use brolly_core::{Name, NewMessage, Pattern, Route, Router};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut lines = text.split('\n');
    let key = lines.next().unwrap_or_default();
    let message = NewMessage { key: key.to_owned(), ..NewMessage::default() };
    let valid = lines.take(50).filter(|pattern| Pattern::new(pattern).is_ok());
    let routes: Vec<(Name, Route)> =
        valid.enumerate().map(|(number, pattern)| route(number, pattern)).collect();
    let router = Router::new(&Router::default(), routes.iter().map(|(name, route)| (name, route)));
    let router = router.expect("each pattern is valid");
    let found = router.route(&name("t"), "m", &message).queues;
    let words: Vec<&str> = key.split('.').collect();
    let leads = |route: &Route| matches(&route.key_pattern.split('.').collect::<Vec<_>>(), &words);
    let mut plain: Vec<Name> =
        routes.iter().filter(|(_, route)| leads(route)).map(|(_, route)| route.queue.clone()).collect();
    plain.sort();
    assert_eq!(found, plain);
});

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

fn route(number: usize, pattern: &str) -> (Name, Route) {
    let queue = format!("q{number}");
    let route = serde_json::json!({"topic": "t", "queue": queue, "key_pattern": pattern});
    (name(&queue), serde_json::from_value(route).expect("a route"))
}

/// AMQP's rule, word by word: `*` is one word, `#` any number of them.
fn matches(pattern: &[&str], words: &[&str]) -> bool {
    // Which beginnings of the words the pattern so far matches.
    let mut reached = vec![false; words.len() + 1];
    reached[0] = true;
    for part in pattern {
        let mut next = vec![false; words.len() + 1];
        for at in 0..=words.len() {
            next[at] = match *part {
                "#" => reached[at] || (at > 0 && next[at - 1]),
                "*" => at > 0 && reached[at - 1],
                word => at > 0 && reached[at - 1] && words[at - 1] == word,
            };
        }
        reached = next;
    }
    reached[words.len()]
}
