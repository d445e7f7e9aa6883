//! Where does a message go: all routes of all topics, compiled so that the cost of a message does
//! not grow with the number of routes that it does not match.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use crate::{
    Filter, Message, Name, NewMessage, Refusal, Route,
    filter::FilterInput,
    pattern::{Pattern, Word},
};

/// The compiled routes. Immutable: a change of routes makes a new one.
#[derive(Debug, Default)]
pub struct Router {
    topics: HashMap<Name, Node>,
    /// The compiled routes by name, for the next router to take over.
    targets: HashMap<Name, Arc<Target>>,
}

/// A node of the pattern trie of one topic: the words read so far lead here.
#[derive(Debug, Default)]
struct Node {
    literals: HashMap<String, Node>,
    one: Option<Box<Node>>,
    any: Option<Box<Node>>,
    ends: Vec<Arc<Target>>,
}

#[derive(Debug)]
struct Target {
    name: Name,
    route: Route,
    filter: Option<Filter>,
}

/// What the routes say of one message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routing {
    /// The queues that get it, each once, in the order of their names.
    pub queues: Vec<Name>,
    /// Routes whose filter could not be evaluated, with the reason. Such a route does not match.
    pub filter_errors: Vec<(Name, String)>,
}

impl Router {
    /// Compiles routes. What `before` has compiled already is taken over, so that changing one route
    /// of many costs little.
    ///
    /// # Errors
    /// The refusal of the first pattern or filter that is not valid.
    pub fn new<'a>(
        before: &Self,
        routes: impl IntoIterator<Item = (&'a Name, &'a Route)>,
    ) -> Result<Self, Refusal> {
        let mut router = Self::default();
        for (name, route) in routes {
            let pattern = Pattern::new(&route.key_pattern)?;
            let target = match before.targets.get(name) {
                Some(target) if target.route == *route => target.clone(),
                _ => {
                    let filter = route.filter.as_deref().map(Filter::new).transpose()?;
                    Arc::new(Target { name: name.clone(), route: route.clone(), filter })
                }
            };
            router.topics.entry(route.topic.clone()).or_default().insert(pattern.words(), target.clone());
            router.targets.insert(name.clone(), target);
        }
        Ok(router)
    }

    /// Whether a message that a broker has brought from a topic to a queue by the key alone is meant
    /// to be there: some route to the queue that matches its key lets it pass. So it is, too, if no
    /// route matches: then somebody else brought it. A filter that cannot be evaluated does not match.
    #[must_use]
    pub fn passes(&self, queue: &Name, message: &Message) -> bool {
        let judged = self.judge(&message.into(), |target| target.route.queue == *queue);
        judged.is_empty() || judged.iter().any(|(_, passes)| *passes == Ok(true))
    }

    /// Whether a route leads from the topic to the queue for this key; its filter is not asked. For
    /// systems that know no key patterns and bring every message of a topic.
    #[must_use]
    pub fn routes_to(&self, topic: &Name, queue: &Name, key: &str) -> bool {
        let mut targets = BTreeMap::new();
        if let Some(root) = self.topics.get(topic) {
            root.collect(&key.split('.').collect::<Vec<_>>(), &mut targets);
        }
        targets.values().any(|target| target.route.queue == *queue)
    }

    /// Finds the queues for a message published to `topic` under `id`.
    #[must_use]
    pub fn route(&self, topic: &Name, id: &str, message: &NewMessage) -> Routing {
        self.find(&Facts {
            id,
            topic,
            key: &message.key,
            content_type: &message.content_type,
            headers: &message.headers,
            payload: &message.payload,
        })
    }

    /// Finds the queues for a message that has its id and topic already.
    #[must_use]
    pub fn route_message(&self, message: &Message) -> Routing {
        self.find(&message.into())
    }

    fn find(&self, facts: &Facts<'_>) -> Routing {
        let mut routing = Routing::default();
        for (target, passes) in self.judge(facts, |_| true) {
            match passes {
                Ok(true) => routing.queues.push(target.route.queue.clone()),
                Ok(false) => {}
                Err(reason) => routing.filter_errors.push((target.name.clone(), reason)),
            }
        }
        routing.queues.sort();
        routing.queues.dedup();
        routing
    }

    /// The routes, of those asked for, whose pattern matches, with what their filters say.
    fn judge(
        &self,
        facts: &Facts<'_>,
        asked: impl Fn(&Target) -> bool,
    ) -> Vec<(&Target, Result<bool, String>)> {
        let mut targets = BTreeMap::new();
        if let Some(root) = self.topics.get(facts.topic) {
            root.collect(&facts.key.split('.').collect::<Vec<_>>(), &mut targets);
        }
        let mut payload = None;
        let mut judge = |target: &Target| match &target.filter {
            None => Ok(true),
            Some(filter) => filter.matches(&FilterInput {
                id: facts.id,
                topic: facts.topic.as_str(),
                key: facts.key,
                content_type: facts.content_type,
                headers: facts.headers,
                payload: payload.get_or_insert_with(|| {
                    serde_json::from_slice(facts.payload).unwrap_or(serde_json::Value::Null)
                }),
            }),
        };
        let asked = targets.into_values().filter(|target| asked(target));
        asked.map(|target| (target, judge(target))).collect()
    }
}

/// What routes look at.
struct Facts<'a> {
    id: &'a str,
    topic: &'a Name,
    key: &'a str,
    content_type: &'a str,
    headers: &'a BTreeMap<String, String>,
    payload: &'a [u8],
}

impl<'a> From<&'a Message> for Facts<'a> {
    fn from(message: &'a Message) -> Self {
        Self {
            id: &message.id,
            topic: &message.topic,
            key: &message.key,
            content_type: &message.content_type,
            headers: &message.headers,
            payload: &message.payload,
        }
    }
}

impl Node {
    fn insert<'a>(&mut self, mut words: impl Iterator<Item = Word<'a>>, target: Arc<Target>) {
        match words.next() {
            None => self.ends.push(target),
            Some(Word::Literal(word)) => {
                self.literals.entry(word.to_owned()).or_default().insert_boxed(words, target)
            }
            Some(Word::One) => self.one.get_or_insert_default().insert_boxed(words, target),
            Some(Word::Any) => self.any.get_or_insert_default().insert_boxed(words, target),
        }
    }

    /// Ends the recursion of iterator types that `insert` would otherwise build.
    fn insert_boxed<'a>(&mut self, words: impl Iterator<Item = Word<'a>>, target: Arc<Target>) {
        let words: Vec<Word<'a>> = words.collect();
        self.insert(&mut words.into_iter() as &mut dyn Iterator<Item = Word<'a>>, target);
    }

    /// Adds every target whose pattern matches `words`, keyed by route, so that a pattern which
    /// matches in several ways counts once.
    fn collect<'a>(&'a self, words: &[&str], found: &mut BTreeMap<&'a Name, &'a Target>) {
        let mut reached = Reached::default();
        reached.add(self);
        for word in words {
            reached.read(word);
        }
        for node in reached.nodes() {
            found.extend(node.ends.iter().map(|target| (&target.name, &**target)));
        }
    }
}

/// The nodes that the words read so far lead to. Each of them is here once, whatever the number of ways
/// to it, so a word costs as much as there are nodes: trying out what every `#` stands for would take
/// hundreds of millions of steps for four of them and a key of 255 dots.
#[derive(Default)]
struct Reached<'a> {
    /// The next word leads away from these.
    here: Vec<&'a Node>,
    /// The nodes behind a `#`, which takes any further word: they stay.
    stay: Vec<&'a Node>,
    known: HashSet<*const Node>,
}

impl<'a> Reached<'a> {
    /// Adds a node, and what lies behind it when its `#` stands for no word.
    fn add(&mut self, node: &'a Node) {
        self.here.push(node);
        let mut before = node;
        while let Some(any) = before.any.as_deref() {
            // What was reached earlier stays, and so does what lies behind it.
            if !self.known.insert(any) {
                break;
            }
            self.stay.push(any);
            before = any;
        }
    }

    /// Goes on by one word.
    fn read(&mut self, word: &str) {
        let nodes: Vec<&'a Node> = self.nodes().collect();
        self.here.clear();
        for node in nodes {
            if let Some(next) = node.literals.get(word) {
                self.add(next);
            }
            if let Some(next) = node.one.as_deref() {
                self.add(next);
            }
        }
    }

    /// All of them, each once: of a node in a trie there is one before it.
    fn nodes(&self) -> impl Iterator<Item = &'a Node> {
        self.here.iter().chain(&self.stay).copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn route(topic: &str, queue: &str, pattern: &str, filter: Option<&str>) -> Route {
        Route {
            topic: Name::new(topic).unwrap(),
            queue: Name::new(queue).unwrap(),
            key_pattern: pattern.into(),
            filter: filter.map(Into::into),
            description: String::new(),
        }
    }

    fn queues(routes: &[Route], topic: &str, key: &str, payload: &str) -> Vec<String> {
        let named: Vec<(Name, Route)> = routes
            .iter()
            .enumerate()
            .map(|(i, r)| (Name::new(&format!("r{i}")).unwrap(), r.clone()))
            .collect();
        let router = Router::new(&Router::default(), named.iter().map(|(n, r)| (n, r))).unwrap();
        let message = NewMessage {
            key: key.into(),
            payload: payload.to_owned().into_bytes().into(),
            ..NewMessage::default()
        };
        let routing = router.route(&Name::new(topic).unwrap(), "id", &message);
        routing.queues.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn patterns_filters_and_topics() {
        let routes = [
            route("o", "all", "#", None),
            route("o", "eu", "eu.*", None),
            route("o", "rich", "#", Some("payload.amount > 10")),
            route("o", "all", "eu.#", None),
            route("other", "never", "#", None),
        ];
        assert_eq!(queues(&routes, "o", "eu.de", r#"{"amount":11}"#), ["all", "eu", "rich"]);
        assert_eq!(queues(&routes, "o", "eu.de.by", r#"{"amount":1}"#), ["all"]);
        assert_eq!(queues(&routes, "o", "", "no json"), ["all"]);
        assert_eq!(queues(&routes, "unknown", "eu.de", "{}"), Vec::<String>::new());
    }

    #[test]
    fn a_route_leads_to_a_queue_by_key_alone() {
        let routes = [route("o", "eu", "eu.*", Some("false")), route("o", "all", "#", None)];
        let names = ["a", "b"].map(|name| Name::new(name).unwrap());
        let router = Router::new(&Router::default(), names.iter().zip(&routes)).unwrap();
        let leads = |topic: &str, queue: &str, key: &str| {
            router.routes_to(&Name::new(topic).unwrap(), &Name::new(queue).unwrap(), key)
        };
        assert!(leads("o", "eu", "eu.de") && leads("o", "all", "us"));
        assert!(!leads("o", "eu", "us") && !leads("o", "other", "eu.de") && !leads("x", "eu", "eu.de"));
    }

    /// Tried out one by one, what each `#` may stand for here would take until long after the test's end.
    #[test]
    fn a_key_of_many_words_is_no_more_work_for_a_pattern_with_many_hashes() {
        let routes = [
            route("o", "all", "#.#.#.#", None),
            route("o", "ends", "#.a.#.a.#.a.#.b", None),
            route("o", "never", "#.a.#.a.#.a.#.c", None),
            route("o", "one", "*.#.*.#.*.#.b", None),
        ];
        assert_eq!(queues(&routes, "o", &".".repeat(255), ""), ["all"]);
        let key = format!("{}b", "a.".repeat(20_000));
        assert_eq!(queues(&routes, "o", &key, ""), ["all", "ends", "one"]);
    }

    #[test]
    fn a_filter_that_cannot_be_evaluated_does_not_match_and_says_so() {
        let route = route("o", "q", "#", Some("payload.amount > 10"));
        let name = Name::new("r").unwrap();
        let router = Router::new(&Router::default(), [(&name, &route)]).unwrap();
        let routing = router.route(&route.topic, "id", &NewMessage::default());
        assert!(routing.queues.is_empty());
        assert_eq!(routing.filter_errors.len(), 1);
    }

    /// The rule of AMQP, written the slow and obvious way.
    fn matches(pattern: &[&str], words: &[&str]) -> bool {
        match pattern.split_first() {
            None => words.is_empty(),
            Some((&"#", rest)) => (0..=words.len()).any(|n| matches(rest, &words[n..])),
            Some((first, rest)) => words
                .split_first()
                .is_some_and(|(w, tail)| (*first == "*" || first == w) && matches(rest, tail)),
        }
    }

    proptest! {
        #[test]
        fn the_trie_agrees_with_the_rule(
            patterns in prop::collection::vec(prop::collection::vec("[ab*#]", 1..5), 1..6),
            key in prop::collection::vec("[ab]", 1..6),
        ) {
            let patterns: Vec<String> = patterns.iter().map(|words| words.join(".")).collect();
            let routes: Vec<Route> =
                patterns.iter().enumerate().map(|(i, p)| route("t", &format!("q{i}"), p, None)).collect();
            let words: Vec<&str> = key.iter().map(String::as_str).collect();
            let expect: Vec<String> = patterns.iter().enumerate()
                .filter(|(_, p)| matches(&p.split('.').collect::<Vec<_>>(), &words))
                .map(|(i, _)| format!("q{i}")).collect();
            prop_assert_eq!(queues(&routes, "t", &key.join("."), ""), expect);
        }
    }
}
