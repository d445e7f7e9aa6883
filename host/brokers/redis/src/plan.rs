//! Where the wanted topics and queues are on the server: which keys they have, and which of them
//! cannot be there. Pure; made anew with every change of the definitions.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use brolly_core::{Code, Name, Proposal, Publication, Queue, Refusal, Retention, Route, Router};

/// What stands between the address of a queue and the keys that Brolly adds.
pub(crate) const MARK: &str = ":brolly";

/// A queue and its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The queue.
    pub queue: Name,
    /// The list, or the stream.
    pub key: String,
    /// What stands in front of all keys that Brolly adds for it.
    pub base: String,
    /// It belongs to somebody else.
    pub adopt: bool,
    /// Of which topic are messages that do not say so themselves.
    pub topic: Name,
    /// Messages that it may hold.
    pub limit: u64,
    /// What it is.
    pub kind: Kind,
}

impl Place {
    /// Whether a consumption of the one can go on at the other.
    pub(crate) fn serves(&self, other: &Place) -> bool {
        *self == Place { limit: self.limit, ..other.clone() }
    }
}

/// What a queue is on the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A list.
    List,
    /// A consumer group.
    Stream {
        /// Its name.
        group: String,
    },
}

/// A topic that is a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stream {
    /// The stream.
    pub key: String,
    /// It belongs to somebody else.
    pub adopt: bool,
}

/// All that is wanted.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// The queues that can be there.
    pub places: HashMap<Name, Arc<Place>>,
    /// The topics that are streams.
    pub streams: HashMap<Name, Stream>,
    /// Why a queue or a topic cannot be there.
    pub troubles: Troubles,
    /// The routes.
    pub router: Arc<Router>,
    /// All topics, with the stream that each would be.
    pub topics: HashMap<Name, Stream>,
    /// Each route with its topic and its queue.
    routes: Vec<(Name, Name, Name)>,
}

/// What is wrong with which queue or topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Troubles {
    pub queues: HashMap<Name, String>,
    pub topics: HashMap<Name, String>,
}

impl Plan {
    pub(crate) fn new(wanted: Publication) -> Self {
        let mut plan = Self { router: wanted.router, ..Self::default() };
        let route =
            |(name, route): &(Name, Arc<Route>)| (name.clone(), route.topic.clone(), route.queue.clone());
        plan.routes = wanted.routes.iter().map(route).collect();
        for (name, topic) in &wanted.topics {
            let stream = Stream { key: topic.address(name).to_owned(), adopt: topic.adopt };
            if topic.adopt {
                plan.streams.insert(name.clone(), stream.clone());
            }
            plan.topics.insert(name.clone(), stream);
        }
        let mut bases = HashSet::new();
        for (name, queue) in &wanted.queues {
            match plan.place(name, queue) {
                Ok(place) if bases.insert(place.base.clone()) => {
                    if matches!(place.kind, Kind::Stream { .. })
                        && let Some(stream) = plan.topics.get(&place.topic)
                    {
                        plan.streams.insert(place.topic.clone(), stream.clone());
                    }
                    plan.places.insert(name.clone(), Arc::new(place));
                }
                Ok(place) => {
                    let trouble = format!("another queue of this broker has the same address, {}", place.key);
                    plan.troubles.queues.insert(name.clone(), trouble);
                }
                Err(trouble) => {
                    plan.troubles.queues.insert(name.clone(), trouble);
                }
            }
        }
        plan
    }

    /// The topics that lead to a queue, by other routes than `but`.
    fn sources(&self, queue: &Name, but: Option<&Name>) -> BTreeSet<&Name> {
        let leads = |route: &&(Name, Name, Name)| route.2 == *queue && but != Some(&route.0);
        self.routes.iter().filter(leads).map(|(_, topic, _)| topic).collect()
    }

    fn place(&self, name: &Name, queue: &Queue) -> Result<Place, String> {
        let address = queue.address(name).to_owned();
        let sources = self.sources(name, None);
        let only = if sources.len() == 1 { sources.first().copied() } else { None };
        let place = |key: String, base: String, topic: &Name, kind: Kind| Place {
            queue: name.clone(),
            key,
            base,
            adopt: queue.adopt,
            topic: topic.clone(),
            limit: queue.retention.max_messages,
            kind,
        };
        match queue.kind.as_deref() {
            None | Some("list") => {
                Ok(place(address.clone(), format!("{address}{MARK}"), only.unwrap_or(name), Kind::List))
            }
            Some("stream") => {
                let topic = only.ok_or_else(|| one_topic(sources.len()))?;
                let stream = self
                    .topics
                    .get(topic)
                    .ok_or_else(|| format!("its topic {topic} is not on this broker"))?;
                let base = format!("{}{MARK}:{address}", stream.key);
                Ok(place(stream.key.clone(), base, topic, Kind::Stream { group: address }))
            }
            Some(other) => Err(unknown_kind(other)),
        }
    }

    /// Refuses, before a definition is saved, what could not be there.
    pub(crate) fn admit(&self, name: &Name, proposal: Proposal<'_>) -> Result<(), Refusal> {
        let refuse = |detail: String| Err(Refusal::new(Code::Unsupported, detail));
        match proposal {
            Proposal::Topic(topic) => check_address(topic.address(name)),
            Proposal::Queue(queue) => {
                check_address(queue.address(name))?;
                let stream = match queue.kind.as_deref() {
                    None | Some("list") => false,
                    Some("stream") => true,
                    Some(other) => return refuse(unknown_kind(other)),
                };
                check_retention(&queue.retention, stream)?;
                let taken = self.places.values().find(|place| {
                    place.queue != *name
                        && !stream
                        && place.kind == Kind::List
                        && place.key == queue.address(name)
                });
                match taken {
                    Some(place) => refuse(format!(
                        "the list {} is the queue {} already; one list is one queue",
                        place.key, place.queue
                    )),
                    None => Ok(()),
                }
            }
            Proposal::Route(route, queue) => {
                let sources = self.sources(&route.queue, Some(name));
                let others = sources.into_iter().any(|topic| *topic != route.topic);
                if queue.kind.as_deref() == Some("stream") && others {
                    return refuse(format!(
                        "the queue {} is a consumer group on the stream of another topic; a stream queue has one \
                         topic, make a queue for this one",
                        route.queue
                    ));
                }
                Ok(())
            }
            // The host holds back what must wait for its key.
            Proposal::Feed(_) | Proposal::Order(..) => Ok(()),
        }
    }
}

fn one_topic(topics: usize) -> String {
    format!(
        "a stream queue is a consumer group on the stream of its topic, so its routes come from one topic; \
         now from {topics}"
    )
}

fn unknown_kind(kind: &str) -> String {
    format!("type is {kind:?}; on Redis a queue is a \"list\" or a \"stream\"")
}

fn check_address(address: &str) -> Result<(), Refusal> {
    if address.contains(MARK) {
        let detail =
            format!("the address {address:?} contains {MARK:?}, which marks the keys that Brolly adds");
        return Err(Refusal::new(Code::Unsupported, detail));
    }
    Ok(())
}

fn check_retention(retention: &Retention, stream: bool) -> Result<(), Refusal> {
    let refuse = |detail: &str| Err(Refusal::new(Code::Unsupported, detail));
    let default = Retention::default();
    if retention.max_bytes != default.max_bytes {
        return refuse("Redis does not count the bytes of a list or stream; leave retention.max_bytes out");
    }
    if stream && retention.max_messages != default.max_messages {
        return refuse(
            "a stream cannot be limited for one of its consumer groups; leave retention.max_messages out",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use brolly_core::{Order, Topic};
    use serde_json::{Value, json};

    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn queue(json: Value) -> Queue {
        serde_json::from_value(json).unwrap()
    }

    fn route(topic: &str, queue: &str) -> Route {
        serde_json::from_value(json!({"topic": topic, "queue": queue})).unwrap()
    }

    fn plan(topics: &[(&str, Value)], queues: &[(&str, Value)], routes: &[(&str, &str)]) -> Plan {
        let topic = |json: &Value| serde_json::from_value::<Topic>(json.clone()).unwrap();
        Plan::new(Publication {
            topics: topics.iter().map(|(n, json)| (name(n), Arc::new(topic(json)))).collect(),
            queues: queues.iter().map(|(n, json)| (name(n), Arc::new(queue(json.clone())))).collect(),
            routes: routes
                .iter()
                .enumerate()
                .map(|(i, (from, to))| (name(&format!("r{i}")), Arc::new(route(from, to))))
                .collect(),
            router: Arc::default(),
        })
    }

    #[test]
    fn queues_have_their_keys() {
        let plan = plan(
            &[("t", json!({"address": "events"})), ("u", json!({})), ("theirs", json!({"adopt": true}))],
            &[
                ("plain", json!({"address": "orders:list", "adopt": true})),
                ("own", json!({})),
                ("group", json!({"type": "stream", "address": "g"})),
            ],
            &[("t", "group"), ("t", "own"), ("u", "own")],
        );
        let place = |queue: &str| (*plan.places[&name(queue)]).clone();
        assert_eq!(place("plain").key, "orders:list");
        assert_eq!(place("plain").base, "orders:list:brolly");
        assert_eq!((place("plain").topic, place("plain").adopt), (name("plain"), true));
        assert_eq!(place("own").topic, name("own"), "two topics lead there");
        assert_eq!(place("group").kind, Kind::Stream { group: "g".into() });
        assert_eq!(
            (place("group").key.as_str(), place("group").base.as_str()),
            ("events", "events:brolly:g")
        );
        assert_eq!(place("group").topic, name("t"));
        let mut streams: Vec<&str> = plan.streams.values().map(|stream| stream.key.as_str()).collect();
        streams.sort_unstable();
        assert_eq!(streams, ["events", "theirs"]);
        assert_eq!(plan.troubles, Troubles::default());
    }

    #[test]
    fn what_cannot_be_there_is_its_own_trouble() {
        let plan = plan(
            &[("t", json!({})), ("u", json!({}))],
            &[
                ("none", json!({"type": "stream"})),
                ("two", json!({"type": "stream"})),
                ("odd", json!({"type": "quorum"})),
                ("a", json!({"address": "x"})),
                ("b", json!({"address": "x"})),
                ("elsewhere", json!({"type": "stream"})),
            ],
            &[("t", "two"), ("u", "two"), ("gone", "elsewhere")],
        );
        let trouble = |queue: &str| plan.troubles.queues[&name(queue)].as_str();
        assert!(trouble("none").contains("now from 0") && trouble("two").contains("now from 2"));
        assert!(trouble("odd").contains("quorum") && trouble("b").contains("same address"));
        assert!(trouble("elsewhere").contains("gone"));
        assert_eq!(plan.places.len(), 1);
    }

    #[test]
    fn definitions_that_cannot_be_honoured_are_refused() {
        let plan = plan(
            &[("t", json!({})), ("u", json!({}))],
            &[("list", json!({"address": "l"})), ("group", json!({"type": "stream"}))],
            &[("t", "group"), ("t", "list")],
        );
        let check = |subject: &str, proposal: Proposal<'_>, part: &str| {
            let refusal = plan.admit(&name(subject), proposal).err();
            match refusal {
                None => assert_eq!(part, "", "{proposal:?}"),
                Some(refusal) => {
                    assert!(!part.is_empty() && refusal.detail.contains(part), "{refusal:?}");
                    assert_eq!(refusal.code, Code::Unsupported);
                }
            }
        };
        let proposed = |json: Value, part: &str| check("new", Proposal::Queue(&queue(json)), part);
        proposed(json!({}), "");
        proposed(json!({"type": "stream", "adopt": true}), "");
        proposed(json!({"type": "quorum"}), "quorum");
        proposed(json!({"address": "a:brolly:b"}), ":brolly");
        proposed(json!({"address": "l"}), "is the queue list already");
        proposed(json!({"retention": {"max_messages": 5}}), "");
        proposed(json!({"retention": {"max_age_ms": 5}}), "");
        proposed(json!({"retention": {"max_bytes": 5}}), "max_bytes");
        proposed(json!({"type": "stream", "retention": {"max_messages": 5}}), "max_messages");
        check("list", Proposal::Queue(&queue(json!({"address": "l"}))), "");
        let (list, group) = (queue(json!({})), queue(json!({"type": "stream"})));
        check("r", Proposal::Route(&route("u", "list"), &list), "");
        check("r", Proposal::Route(&route("t", "group"), &group), "");
        check("r", Proposal::Route(&route("u", "group"), &group), "has one topic");
        check("r", Proposal::Route(&route("u", "fresh"), &group), "");
        check("r0", Proposal::Route(&route("u", "group"), &group), "");
        check("r", Proposal::Order(&group, Order::Key), "");
        let topic: Topic = serde_json::from_value(json!({"address": "x:brolly"})).unwrap();
        check("t", Proposal::Topic(&topic), ":brolly");
    }
}
