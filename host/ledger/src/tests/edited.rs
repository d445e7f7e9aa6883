//! Edited copies of dead letters.

use brolly_core::{Code, Commit, Decision, Message, Refusal};

use super::{name, open};
use crate::{Error, Status};

#[tokio::test]
async fn an_edited_copy_takes_the_place_of_its_dead_letter_once() {
    let bench = open();
    let queue = name("q");
    let delivery = bench.delivery("m");
    let seq = delivery.record.unwrap();
    bench.decide(&delivery, &Decision::DeadLetter { reason: "no".into() });
    bench.settled().await;
    let letter = bench.ledger.find_dead_letter(&queue, "m", None).unwrap().unwrap();
    assert_eq!((letter.seq, letter.reason.as_str()), (seq, "no"));
    assert!(bench.ledger.find_dead_letter(&queue, "m", Some(&name("elsewhere"))).unwrap().is_none());

    let edit = |original: &Message, id: String| Ok(Message { id, key: "new".into(), ..original.clone() });
    let full = |_: u64, _: &Message, _: &mut Commit| {
        Err::<(), Error>(Refusal::new(Code::QueueFull, "no room").into())
    };
    bench.ledger.replace_dead_letter(&queue, seq, edit, full).await.unwrap_err();
    assert_eq!(bench.ledger.dead_letters().count(&queue), 1, "nothing was done");
    assert!(bench.ledger.history("m~edited-1", None).unwrap().is_none());

    let mut staged = Vec::new();
    let stage = |record: u64, message: &Message, _: &mut Commit| {
        staged.push((record, message.id.clone()));
        Ok::<(), Error>(())
    };
    let copy = bench.ledger.replace_dead_letter(&queue, seq, edit, stage).await.unwrap().unwrap();
    assert_eq!((copy.id.as_str(), copy.key.as_str()), ("m~edited-1", "new"));
    let again = |_: u64, _: &Message, _: &mut Commit| panic!("it is no dead letter any more");
    let none = bench.ledger.replace_dead_letter::<Error>(&queue, seq, edit, again).await.unwrap();
    assert_eq!(none, None);
    assert_eq!(bench.ledger.dead_letters().count(&queue), 0);

    let story = bench.ledger.history("m~edited-1", None).unwrap().unwrap();
    assert_eq!(staged, [(story.seq, "m~edited-1".to_owned())]);
    assert_eq!(story.parent, Some((name("orders.paid"), "m".to_owned())));
    assert_eq!(story.stored.routed, [name("q")]);
    let original = bench.ledger.history("m", None).unwrap().unwrap();
    assert_eq!(original.deliveries[0].status, Status::Replaced);
    assert_eq!(original.deliveries[0].published, [(name("orders.paid"), "m~edited-1".to_owned())]);
    assert_eq!(bench.ledger.tally().unwrap()[&name("s")], crate::Tally::default(), "the copy is counted");
}
