//! Which of a channel's deliveries are settled, and the fewest words to tell the server.
//!
//! Called by a tap for each of its channels. Pure: it says what is to be sent and sends nothing.

use std::collections::BTreeMap;

/// Settled out of order so many at once, they are told one by one.
pub(crate) const MANY: usize = 64;

/// The deliveries of one channel that the server waits to hear of.
#[derive(Debug, Default)]
pub(crate) struct Acks {
    /// INVARIANT: exactly the tags that were handed out and that no word was given for.
    open: BTreeMap<u64, State>,
    /// How many of them are settled.
    settled: usize,
    returned: Vec<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Held,
    Settled,
}

/// What is to be told to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// This one is settled.
    Ack(u64),
    /// This one is settled and all before it that it has not heard of.
    AckUpTo(u64),
    /// This one is to be handed out again.
    Requeue(u64),
}

impl Acks {
    /// The server has handed out a delivery.
    pub(crate) fn hand_out(&mut self, tag: u64) {
        self.open.insert(tag, State::Held);
    }

    /// It is settled. Once is enough.
    pub(crate) fn settle(&mut self, tag: u64) {
        if let Some(state @ State::Held) = self.open.get_mut(&tag) {
            *state = State::Settled;
            self.settled += 1;
        }
    }

    /// It is not handled and goes back.
    pub(crate) fn give_back(&mut self, tag: u64) {
        if self.open.get(&tag) == Some(&State::Held) {
            self.open.remove(&tag);
            self.returned.push(tag);
        }
    }

    /// How many the server waits to hear of.
    pub(crate) fn open(&self) -> usize {
        self.open.len() + self.returned.len()
    }

    /// How many are settled and wait for one before them.
    pub(crate) fn stuck(&self) -> usize {
        self.settled
    }

    /// What is to be told now, in this order; with `all` also what is settled out of order.
    pub(crate) fn take(&mut self, all: bool) -> Vec<Word> {
        let mut words: Vec<Word> = self.returned.drain(..).map(Word::Requeue).collect();
        let (mut count, mut last) = (0, 0);
        while let Some(first) = self.open.first_entry()
            && *first.get() == State::Settled
        {
            (last, _) = first.remove_entry();
            count += 1;
        }
        self.settled -= count;
        match count {
            0 => {}
            1 => words.push(Word::Ack(last)),
            _ => words.push(Word::AckUpTo(last)),
        }
        if all || self.settled > MANY {
            self.open.retain(|tag, state| {
                if *state == State::Settled {
                    words.push(Word::Ack(*tag));
                }
                *state != State::Settled
            });
            self.settled = 0;
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        HandOut,
        Settle(usize),
        GiveBack(usize),
        Take(bool),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => Just(Step::HandOut),
            4 => (0usize..200).prop_map(Step::Settle),
            1 => (0usize..200).prop_map(Step::GiveBack),
            2 => any::<bool>().prop_map(Step::Take),
        ]
    }

    /// A server that knows what it waits for, and takes no word twice.
    #[derive(Default)]
    struct Server {
        waits: BTreeSet<u64>,
        acked: BTreeSet<u64>,
        requeued: BTreeSet<u64>,
    }

    impl Server {
        fn hear(&mut self, word: Word) {
            match word {
                Word::Ack(tag) => {
                    assert!(self.waits.remove(&tag), "unknown tag {tag}");
                    self.acked.insert(tag);
                }
                Word::AckUpTo(tag) => {
                    assert!(self.waits.contains(&tag), "unknown tag {tag}");
                    let later = self.waits.split_off(&(tag + 1));
                    self.acked.append(&mut self.waits);
                    self.waits = later;
                }
                Word::Requeue(tag) => {
                    assert!(self.waits.remove(&tag), "unknown tag {tag}");
                    self.requeued.insert(tag);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn each_delivery_is_told_once_and_as_it_was_settled(steps in prop::collection::vec(step(), 0..400)) {
            let (mut acks, mut server) = (Acks::default(), Server::default());
            let (mut settled, mut returned) = (BTreeSet::new(), BTreeSet::new());
            let mut tags = 0_u64;
            for step in steps.into_iter().chain([Step::Take(true)]) {
                match step {
                    Step::HandOut => {
                        tags += 1;
                        server.waits.insert(tags);
                        acks.hand_out(tags);
                    }
                    Step::Settle(which) if tags > 0 => {
                        let tag = which as u64 % tags + 1;
                        if !returned.contains(&tag) {
                            settled.insert(tag);
                        }
                        acks.settle(tag);
                    }
                    Step::GiveBack(which) if tags > 0 => {
                        let tag = which as u64 % tags + 1;
                        if !settled.contains(&tag) {
                            returned.insert(tag);
                        }
                        acks.give_back(tag);
                    }
                    Step::Settle(_) | Step::GiveBack(_) => {}
                    Step::Take(all) => {
                        acks.take(all).into_iter().for_each(|word| server.hear(word));
                        prop_assert!(acks.stuck() <= MANY);
                        // Nothing is told that was not said, and in time all that was.
                        prop_assert!(server.acked.is_subset(&settled));
                        prop_assert_eq!(&server.requeued, &returned);
                        if all {
                            prop_assert_eq!(&server.acked, &settled);
                        }
                        prop_assert_eq!(acks.open(), server.waits.len());
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_settled_in_order_is_one_word() {
        let mut acks = Acks::default();
        (1..=5).for_each(|tag| acks.hand_out(tag));
        [2, 1, 3, 5].into_iter().for_each(|tag| acks.settle(tag));
        assert_eq!(acks.take(false), [Word::AckUpTo(3)]);
        assert_eq!((acks.stuck(), acks.open()), (1, 2));
        assert_eq!(acks.take(true), [Word::Ack(5)]);
        acks.settle(4);
        assert_eq!(acks.take(false), [Word::Ack(4)]);
        assert_eq!(acks.open(), 0);
    }
}
