//! How every row is named: one function per table builds its key, one takes it apart. Called by the
//! authors of rows; knows nothing of their values.
//!
//! The first byte is the table. Integers are big endian, so that they sort. Names, ids and state
//! keys have no control characters, so a NUL ends them and sorts before whatever could follow.
//!
//! | table | key | value |
//! | --- | --- | --- |
//! | meta | `M` what | by what |
//! | feed | `M` feed NUL topic | the ledger's |
//! | audit record | `a` number (u64) | the catalog's |
//! | catalog | `c` kind NUL name | a definition |
//! | alert | `l` number (u64) | the alerts' |
//! | delivery | `d` seq subscription | what became of it |
//! | earlier attempt | `d` seq subscription NUL attempt (u32) | one attempt |
//! | message index | `i` id NUL topic | seq |
//! | message | `m` seq | [`crate::StoredMessage`] |
//! | outbox | `o` seq number | where the message is to be sent |
//! | queue entry | `q` queue NUL seq | the broker's |
//! | rollout | `r` subscription | the ledger's |
//! | state | `s` subscription NUL key | the plugin's |
//! | swap | `v` subscription NUL number (u64) | the ledger's |
//! | terms | `t` subscription | the ledger's |
//! | dead letter | `x` queue NUL seq | the ledger's |
//!
//! `seq` (u64) is the number of a message, given out by [`crate::Messages`]. The rows of one
//! delivery lie together, the current one first; those of one message lie together too.

use brolly_core::Name;

const META: u8 = b'M';
const AUDIT: u8 = b'a';
const CATALOG: u8 = b'c';
const DELIVERY: u8 = b'd';
const INDEX: u8 = b'i';
const ALERT: u8 = b'l';
const MESSAGE: u8 = b'm';
const OUTBOX: u8 = b'o';
const QUEUE: u8 = b'q';
const ROLLOUT: u8 = b'r';
const STATE: u8 = b's';
const SWAP: u8 = b'v';
const TERMS: u8 = b't';
const DEAD: u8 = b'x';
const END: u8 = 0;

fn key(table: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + parts.iter().map(|part| part.len()).sum::<usize>());
    key.push(table);
    for part in parts {
        key.extend_from_slice(part);
    }
    key
}

/// A row of the store's own.
#[must_use]
pub fn meta(what: &str) -> Vec<u8> {
    key(META, &[what.as_bytes()])
}

/// What is remembered of the feed of a topic.
#[must_use]
pub fn feed(topic: &Name) -> Vec<u8> {
    key(META, &[b"feed", &[END], topic.as_str().as_bytes()])
}

/// A record of the audit log.
#[must_use]
pub fn audit(number: u64) -> Vec<u8> {
    key(AUDIT, &[&number.to_be_bytes()])
}

/// All records of the audit log, in their order.
#[must_use]
pub fn audit_prefix() -> Vec<u8> {
    vec![AUDIT]
}

/// The number of a record of the audit log.
#[must_use]
pub fn parse_audit(key: &[u8]) -> Option<u64> {
    u64_of(key.strip_prefix(&[AUDIT])?)
}

/// An alert.
#[must_use]
pub fn alert(number: u64) -> Vec<u8> {
    key(ALERT, &[&number.to_be_bytes()])
}

/// All alerts, in the order in which they began.
#[must_use]
pub fn alert_prefix() -> Vec<u8> {
    vec![ALERT]
}

/// The number of an alert.
#[must_use]
pub fn parse_alert(key: &[u8]) -> Option<u64> {
    u64_of(key.strip_prefix(&[ALERT])?)
}

/// What is known of the latest rollout in a subscription.
#[must_use]
pub fn rollout(subscription: &Name) -> Vec<u8> {
    key(ROLLOUT, &[subscription.as_str().as_bytes()])
}

/// What a subscription runs on, or ran on when its host ended.
#[must_use]
pub fn terms(subscription: &Name) -> Vec<u8> {
    key(TERMS, &[subscription.as_str().as_bytes()])
}

/// A change of the version that handles a subscription.
#[must_use]
pub fn swap(subscription: &Name, number: u64) -> Vec<u8> {
    key(SWAP, &[subscription.as_str().as_bytes(), &[END], &number.to_be_bytes()])
}

/// All changes of the version of a subscription, in their order.
#[must_use]
pub fn swap_prefix(subscription: &Name) -> Vec<u8> {
    key(SWAP, &[subscription.as_str().as_bytes(), &[END]])
}

/// A definition.
#[must_use]
pub fn catalog(kind: &str, name: &Name) -> Vec<u8> {
    key(CATALOG, &[kind.as_bytes(), &[END], name.as_str().as_bytes()])
}

/// All definitions of a kind.
#[must_use]
pub fn catalog_prefix(kind: &str) -> Vec<u8> {
    key(CATALOG, &[kind.as_bytes(), &[END]])
}

/// Kind and name of a definition.
#[must_use]
pub fn parse_catalog(key: &[u8]) -> Option<(&str, Name)> {
    let (kind, name) = split_text(key.strip_prefix(&[CATALOG])?)?;
    Some((kind, name_of(name)?))
}

/// What became of a message in a subscription.
#[must_use]
pub fn delivery(seq: u64, subscription: &Name) -> Vec<u8> {
    key(DELIVERY, &[&seq.to_be_bytes(), subscription.as_str().as_bytes()])
}

/// One attempt before the current one.
#[must_use]
pub fn earlier_attempt(seq: u64, subscription: &Name, attempt: u32) -> Vec<u8> {
    let subscription = subscription.as_str().as_bytes();
    key(DELIVERY, &[&seq.to_be_bytes(), subscription, &[END], &attempt.to_be_bytes()])
}

/// All earlier attempts of one delivery, in their order.
#[must_use]
pub fn earlier_attempts_prefix(seq: u64, subscription: &Name) -> Vec<u8> {
    key(DELIVERY, &[&seq.to_be_bytes(), subscription.as_str().as_bytes(), &[END]])
}

/// All deliveries of a message, each followed by its earlier attempts.
#[must_use]
pub fn delivery_prefix(seq: u64) -> Vec<u8> {
    key(DELIVERY, &[&seq.to_be_bytes()])
}

/// All deliveries of all messages.
#[must_use]
pub fn deliveries_prefix() -> Vec<u8> {
    vec![DELIVERY]
}

/// Message, subscription and, for an earlier attempt, its number.
#[must_use]
pub fn parse_delivery(key: &[u8]) -> Option<(u64, Name, Option<u32>)> {
    let (seq, rest) = key.strip_prefix(&[DELIVERY])?.split_first_chunk()?;
    let seq = u64::from_be_bytes(*seq);
    match rest.iter().position(|&byte| byte == END) {
        None => Some((seq, name_of(rest)?, None)),
        Some(at) => {
            let (name, attempt) = (rest.get(..at)?, rest.get(at + 1..)?);
            Some((seq, name_of(name)?, Some(u32::from_be_bytes(attempt.try_into().ok()?))))
        }
    }
}

/// Which message has an id in a topic.
#[must_use]
pub fn index(id: &str, topic: &Name) -> Vec<u8> {
    key(INDEX, &[id.as_bytes(), &[END], topic.as_str().as_bytes()])
}

/// The messages of an id, in any topic.
#[must_use]
pub fn index_prefix(id: &str) -> Vec<u8> {
    key(INDEX, &[id.as_bytes(), &[END]])
}

/// The messages of all ids that begin so, in any topic.
#[must_use]
pub fn index_of_ids(beginning: &str) -> Vec<u8> {
    key(INDEX, &[beginning.as_bytes()])
}

/// Id and topic.
#[must_use]
pub fn parse_index(key: &[u8]) -> Option<(&str, Name)> {
    let (id, topic) = split_text(key.strip_prefix(&[INDEX])?)?;
    Some((id, name_of(topic)?))
}

/// A message.
#[must_use]
pub fn message(seq: u64) -> Vec<u8> {
    key(MESSAGE, &[&seq.to_be_bytes()])
}

/// All messages, in the order in which they were accepted.
#[must_use]
pub fn message_prefix() -> Vec<u8> {
    vec![MESSAGE]
}

/// The number of a message.
#[must_use]
pub fn parse_message(key: &[u8]) -> Option<u64> {
    u64_of(key.strip_prefix(&[MESSAGE])?)
}

/// That a message is to be sent elsewhere; the number tells several such rows of one message apart.
#[must_use]
pub fn outbox(seq: u64, number: u64) -> Vec<u8> {
    key(OUTBOX, &[&seq.to_be_bytes(), &number.to_be_bytes()])
}

/// Everything that is to be sent.
#[must_use]
pub fn outbox_prefix() -> Vec<u8> {
    vec![OUTBOX]
}

/// Every place that one message is to be sent to.
#[must_use]
pub fn outbox_of(seq: u64) -> Vec<u8> {
    key(OUTBOX, &[&seq.to_be_bytes()])
}

/// Message and number.
#[must_use]
pub fn parse_outbox(key: &[u8]) -> Option<(u64, u64)> {
    let (seq, number) = key.strip_prefix(&[OUTBOX])?.split_first_chunk()?;
    Some((u64::from_be_bytes(*seq), u64_of(number)?))
}

/// A message in a queue.
#[must_use]
pub fn queue_entry(queue: &Name, seq: u64) -> Vec<u8> {
    key(QUEUE, &[queue.as_str().as_bytes(), &[END], &seq.to_be_bytes()])
}

/// All messages in a queue, in their order.
#[must_use]
pub fn queue_prefix(queue: &Name) -> Vec<u8> {
    key(QUEUE, &[queue.as_str().as_bytes(), &[END]])
}

/// All messages in all queues, queue by queue.
#[must_use]
pub fn queues_prefix() -> Vec<u8> {
    vec![QUEUE]
}

/// Queue and message.
#[must_use]
pub fn parse_queue_entry(key: &[u8]) -> Option<(Name, u64)> {
    parse_name_seq(key.strip_prefix(&[QUEUE])?)
}

/// An entry of a subscription's state.
#[must_use]
pub fn state(subscription: &Name, entry: &str) -> Vec<u8> {
    key(STATE, &[subscription.as_str().as_bytes(), &[END], entry.as_bytes()])
}

/// A subscription's state. Followed by the beginning of a key it is the prefix for those keys.
#[must_use]
pub fn state_prefix(subscription: &Name) -> Vec<u8> {
    key(STATE, &[subscription.as_str().as_bytes(), &[END]])
}

/// Subscription and key.
#[must_use]
pub fn parse_state(key: &[u8]) -> Option<(Name, &str)> {
    let (subscription, entry) = split(key.strip_prefix(&[STATE])?)?;
    Some((name_of(subscription)?, std::str::from_utf8(entry).ok()?))
}

/// A dead letter.
#[must_use]
pub fn dead_letter(queue: &Name, seq: u64) -> Vec<u8> {
    key(DEAD, &[queue.as_str().as_bytes(), &[END], &seq.to_be_bytes()])
}

/// All dead letters of a queue, in the order of their messages.
#[must_use]
pub fn dead_letter_prefix(queue: &Name) -> Vec<u8> {
    key(DEAD, &[queue.as_str().as_bytes(), &[END]])
}

/// All dead letters of all queues, queue by queue.
#[must_use]
pub fn dead_letters_prefix() -> Vec<u8> {
    vec![DEAD]
}

/// Queue and message.
#[must_use]
pub fn parse_dead_letter(key: &[u8]) -> Option<(Name, u64)> {
    parse_name_seq(key.strip_prefix(&[DEAD])?)
}

/// The message of a key that ends in one: a message, queue entry or dead letter.
#[must_use]
pub fn seq_of(key: &[u8]) -> Option<u64> {
    let (&table, rest) = key.split_first()?;
    match table {
        MESSAGE => u64_of(rest),
        QUEUE | DEAD => rest.split_last_chunk().map(|(_, seq)| u64::from_be_bytes(*seq)),
        _ => None,
    }
}

/// A value that is one big-endian integer, as in the message index.
#[must_use]
pub fn u64_of(value: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(value.try_into().ok()?))
}

/// A key in words, for errors and logs.
#[must_use]
pub fn show(key: &[u8]) -> String {
    let table = match key.first() {
        Some(&META) => "meta",
        Some(&AUDIT) => "audit",
        Some(&CATALOG) => "catalog",
        Some(&DELIVERY) => "delivery",
        Some(&INDEX) => "message index",
        Some(&ALERT) => "alert",
        Some(&MESSAGE) => "message",
        Some(&OUTBOX) => "outbox",
        Some(&QUEUE) => "queue entry",
        Some(&ROLLOUT) => "rollout",
        Some(&STATE) => "state",
        Some(&SWAP) => "swap",
        Some(&TERMS) => "terms",
        Some(&DEAD) => "dead letter",
        _ => "unknown",
    };
    let rest = key.get(1..).unwrap_or_default();
    let subject = if let Some((seq, name, attempt)) = parse_delivery(key) {
        let attempt = attempt.map(|attempt| format!(" attempt {attempt}")).unwrap_or_default();
        format!("{seq} {name}{attempt}")
    } else if let Some((name, seq)) = parse_queue_entry(key).or_else(|| parse_dead_letter(key)) {
        format!("{name} {seq}")
    } else if let Some((seq, number)) = parse_outbox(key) {
        format!("{seq} {number}")
    } else if let Some(number) = parse_message(key).or_else(|| parse_audit(key)).or_else(|| parse_alert(key))
    {
        number.to_string()
    } else {
        rest.escape_ascii().to_string().replace("\\x00", " ")
    };
    format!("{table} row {subject}")
}

fn split(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|&byte| byte == END)?;
    Some((text.get(..at)?, text.get(at + 1..)?))
}

fn split_text(text: &[u8]) -> Option<(&str, &[u8])> {
    let (first, rest) = split(text)?;
    Some((std::str::from_utf8(first).ok()?, rest))
}

fn name_of(text: &[u8]) -> Option<Name> {
    Name::new(std::str::from_utf8(text).ok()?).ok()
}

/// The number may contain NUL, the name may not: the first one ends it.
fn parse_name_seq(text: &[u8]) -> Option<(Name, u64)> {
    let (name, seq) = split(text)?;
    Some((name_of(name)?, u64_of(seq)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Fields = (Name, u64, Option<u32>, String);

    /// Short names over few characters, so that one is often the beginning of another.
    fn names() -> impl Strategy<Value = Name> {
        "[a-b][a.-]{0,3}".prop_map(|text| Name::new(&text).unwrap())
    }

    /// Numbers whose bytes have NULs and all bits in every place.
    fn numbers() -> impl Strategy<Value = u64> {
        prop_oneof![0..300_u64, any::<u64>(), (0..8_u32).prop_map(|byte| 1 << (8 * byte))]
    }

    fn texts() -> impl Strategy<Value = String> {
        "[a-b\u{7f}-\u{ff}/ é]{1,4}".prop_map(|text| text.replace(char::is_control, "x"))
    }

    proptest! {
        #[test]
        fn keys_round_trip(name in names(), seq in numbers(), attempt: Option<u32>, text in texts()) {
            prop_assert!(parse_catalog(&catalog("topic", &name)) == Some(("topic", name.clone())));
            let row = match attempt {
                None => delivery(seq, &name),
                Some(attempt) => earlier_attempt(seq, &name, attempt),
            };
            prop_assert_eq!(parse_delivery(&row), Some((seq, name.clone(), attempt)));
            prop_assert!(parse_index(&index(&text, &name)) == Some((text.as_str(), name.clone())));
            prop_assert_eq!(parse_message(&message(seq)), Some(seq));
            prop_assert_eq!(parse_audit(&audit(seq)), Some(seq));
            prop_assert_eq!(parse_alert(&alert(seq)), Some(seq));
            prop_assert_eq!(parse_outbox(&outbox(seq, !seq)), Some((seq, !seq)));
            prop_assert_eq!(parse_queue_entry(&queue_entry(&name, seq)), Some((name.clone(), seq)));
            prop_assert!(parse_state(&state(&name, &text)) == Some((name.clone(), text.as_str())));
            prop_assert_eq!(parse_dead_letter(&dead_letter(&name, seq)), Some((name.clone(), seq)));
            for row in [message(seq), queue_entry(&name, seq), dead_letter(&name, seq)] {
                prop_assert_eq!(seq_of(&row), Some(seq));
            }
        }

        #[test]
        fn rows_sort_by_their_fields(a in (names(), numbers(), any::<Option<u32>>(), texts()),
                                     b in (names(), numbers(), any::<Option<u32>>(), texts())) {
            let compare = |key: &dyn Fn(&Fields) -> Vec<u8>| key(&a).cmp(&key(&b));
            prop_assert_eq!(compare(&|r| message(r.1)), a.1.cmp(&b.1));
            prop_assert_eq!(compare(&|r| audit(r.1)), a.1.cmp(&b.1));
            prop_assert_eq!(compare(&|r| alert(r.1)), a.1.cmp(&b.1));
            prop_assert_eq!(compare(&|r| queue_entry(&r.0, r.1)), (&a.0, a.1).cmp(&(&b.0, b.1)));
            prop_assert_eq!(compare(&|r| dead_letter(&r.0, r.1)), (&a.0, a.1).cmp(&(&b.0, b.1)));
            prop_assert_eq!(compare(&|r| state(&r.0, &r.3)), (&a.0, &a.3).cmp(&(&b.0, &b.3)));
            prop_assert_eq!(compare(&|r| index(&r.3, &r.0)), (&a.3, &a.0).cmp(&(&b.3, &b.0)));
            let attempts = compare(&|r| match r.2 {
                None => delivery(r.1, &r.0),
                Some(attempt) => earlier_attempt(r.1, &r.0, attempt),
            });
            prop_assert_eq!(attempts, (a.1, &a.0, a.2).cmp(&(b.1, &b.0, b.2)));
        }

        #[test]
        fn a_prefix_covers_its_own_rows_and_no_others(a in names(), b in names(), x in numbers(), y in numbers(),
                                                      text in texts()) {
            prop_assert_eq!(queue_entry(&b, x).starts_with(&queue_prefix(&a)), a == b);
            prop_assert_eq!(outbox(x, 1).starts_with(&outbox_of(y)), x == y);
            prop_assert!(queue_entry(&b, x).starts_with(&queues_prefix()));
            prop_assert!(audit(x).starts_with(&audit_prefix()));
            prop_assert_eq!(dead_letter(&b, x).starts_with(&dead_letter_prefix(&a)), a == b);
            prop_assert!(dead_letter(&b, x).starts_with(&dead_letters_prefix()));
            prop_assert_eq!(state(&b, &text).starts_with(&state_prefix(&a)), a == b);
            prop_assert_eq!(delivery(y, &a).starts_with(&delivery_prefix(x)), x == y);
            prop_assert_eq!(earlier_attempt(y, &b, 1).starts_with(&earlier_attempts_prefix(x, &a)), x == y && a == b);
            prop_assert!(!delivery(x, &b).starts_with(&earlier_attempts_prefix(x, &a)));
            prop_assert_eq!(catalog(b.as_str(), &a).starts_with(&catalog_prefix(a.as_str())), a == b);
            prop_assert!(index(&text, &a).starts_with(&index_prefix(&text)));
        }

        #[test]
        fn whatever_is_parsed_is_what_was_built(table in "[McdilmoqsxX]", rest in prop::collection::vec(prop_oneof![Just(0_u8), Just(b'a'), any::<u8>()], 0..20)) {
            let key = [table.as_bytes(), &rest].concat();
            prop_assert!(!show(&key).contains('\0'));
            if let Some((kind, name)) = parse_catalog(&key) { prop_assert_eq!(&catalog(kind, &name), &key); }
            if let Some((seq, name, attempt)) = parse_delivery(&key) {
                let built = attempt.map_or_else(|| delivery(seq, &name), |attempt| earlier_attempt(seq, &name, attempt));
                prop_assert_eq!(&built, &key);
            }
            if let Some((id, topic)) = parse_index(&key) { prop_assert_eq!(&index(id, &topic), &key); }
            if let Some(seq) = parse_message(&key) { prop_assert_eq!(&message(seq), &key); }
            if let Some((seq, number)) = parse_outbox(&key) { prop_assert_eq!(&outbox(seq, number), &key); }
            if let Some((name, seq)) = parse_queue_entry(&key) { prop_assert_eq!(&queue_entry(&name, seq), &key); }
            if let Some((name, entry)) = parse_state(&key) { prop_assert_eq!(&state(&name, entry), &key); }
            if let Some((name, seq)) = parse_dead_letter(&key) { prop_assert_eq!(&dead_letter(&name, seq), &key); }
        }
    }

    #[test]
    fn keys_in_words() {
        let name = Name::new("settlement").unwrap();
        assert_eq!(show(&earlier_attempt(7, &name, 2)), "delivery row 7 settlement attempt 2");
        assert_eq!(show(&queue_entry(&name, 7)), "queue entry row settlement 7");
        assert_eq!(show(&message(7)), "message row 7");
        assert_eq!(show(&state(&name, "day/1997")), "state row settlement day/1997");
        assert_eq!(show(&index("id", &name)), "message index row id settlement");
    }
}
