//! What a capture holds, for the attempt that is made again.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    time::Duration,
};

use brolly_core::{
    HttpError, HttpFailure, HttpRequest, HttpResponse, HttpTerms, Outside, StateEntry, StateReader,
    StateUnavailable, Unreachable,
};
use bytes::Bytes;
use parking_lot::Mutex;

use crate::{Capture, CapturedAnswer, CapturedRequest, Read};

/// What a captured attempt read. Another plugin may want to read what that one did not: nobody knows
/// what was there.
pub struct Recorded {
    values: BTreeMap<String, Option<Bytes>>,
    lists: Vec<(String, Option<String>, usize, Vec<StateEntry>)>,
    outside: Mutex<Told>,
    /// Whether what was not read is taken for absent.
    absent: bool,
    /// The first read that the capture has no answer to.
    unknown: Mutex<Option<String>>,
}

/// What is told once more by what lies outside: of each kind in the order in which it was told.
#[derive(Default)]
struct Told {
    wall: VecDeque<(u64, u32)>,
    monotonic: VecDeque<(u64, u32)>,
    waits: VecDeque<bool>,
    random: VecDeque<Bytes>,
    answers: Vec<(CapturedRequest, CapturedAnswer)>,
    /// Waited by an attempt that waits more often than the captured one.
    waited_ms: u64,
}

impl Told {
    fn tell(&mut self, read: &Read) {
        match read {
            Read::Get { .. } | Read::List { .. } => {}
            Read::Wall { ms, times } => self.wall.push_back((*ms, *times)),
            Read::Monotonic { ms, times } => self.monotonic.push_back((*ms, *times)),
            Read::Wait { passed } => self.waits.push_back(*passed),
            Read::Random { bytes } => self.random.push_back(bytes.0.clone()),
            Read::Http { request, answer } => self.answers.push((request.clone(), answer.clone())),
        }
    }
}

/// The next reading of a clock; at the end the last one, which stays, and that it is the end.
fn next_reading(readings: &mut VecDeque<(u64, u32)>) -> (u64, bool) {
    let is_last = readings.len() <= 1;
    match readings.front_mut() {
        None => (1, true),
        Some((ms, 0)) => (*ms, true),
        Some((ms, times)) => {
            let ms = *ms;
            *times -= 1;
            if *times == 0 && !is_last {
                readings.pop_front();
            }
            (ms, false)
        }
    }
}

impl Recorded {
    /// What a capture holds. With `absent`, what the captured attempt did not read is taken for not
    /// being there, and a clock for going on only while it waits; otherwise the attempt that reads it cannot be served.
    #[must_use]
    pub fn new(capture: &Capture, absent: bool) -> Self {
        let (mut values, mut lists) = (BTreeMap::new(), Vec::new());
        let mut told = Told::default();
        for read in &capture.reads {
            told.tell(read);
            match read {
                Read::Get { key, value } => {
                    values.insert(key.clone(), value.clone().map(|value| value.0));
                }
                Read::List { prefix, after, limit, entries } => {
                    let entry = |(key, value): &(String, crate::Blob)| StateEntry {
                        key: key.clone(),
                        value: value.0.clone(),
                    };
                    let entries: Vec<StateEntry> = entries.iter().map(entry).collect();
                    values.extend(entries.iter().map(|entry| (entry.key.clone(), Some(entry.value.clone()))));
                    lists.push((prefix.clone(), after.clone(), *limit, entries));
                }
                Read::Wall { .. }
                | Read::Monotonic { .. }
                | Read::Wait { .. }
                | Read::Random { .. }
                | Read::Http { .. } => {}
            }
        }
        Self { values, lists, outside: Mutex::new(told), absent, unknown: Mutex::default() }
    }

    /// The first read that the capture has no answer to.
    pub fn unknown(&self) -> Option<String> {
        self.unknown.lock().clone()
    }

    /// Stops the attempt, or lets it go on with nothing.
    fn missing<T>(&self, what: String, nothing: T) -> Result<T, String> {
        self.unknown.lock().get_or_insert_with(|| what.clone());
        if self.absent {
            return Ok(nothing);
        }
        Err(format!("the capture does not have {what}, which the captured attempt did not read"))
    }

    fn unknown_read<T>(&self, what: String, nothing: T) -> Result<T, StateUnavailable> {
        self.missing(what, nothing).map_err(StateUnavailable)
    }

    fn reading(&self, what: &str, (ms, is_missing): (u64, bool), waited_ms: u64) -> Result<u64, Unreachable> {
        let ms = ms.saturating_add(waited_ms);
        if is_missing { self.missing(what.to_owned(), ms).map_err(Unreachable) } else { Ok(ms) }
    }
}

impl Outside for Recorded {
    fn wall_ms(&self) -> Result<u64, Unreachable> {
        let mut told = self.outside.lock();
        let (reading, waited_ms) = (next_reading(&mut told.wall), told.waited_ms);
        self.reading("the time once more", reading, waited_ms)
    }

    fn monotonic_ms(&self) -> Result<u64, Unreachable> {
        let mut told = self.outside.lock();
        let (reading, waited_ms) = (next_reading(&mut told.monotonic), told.waited_ms);
        self.reading("the monotonic clock once more", reading, waited_ms)
    }

    /// Takes no time: what has passed is told by the clocks, and added to them where the captured attempt
    /// did not wait.
    fn wait(&self, wanted: Duration, at_most: Duration) -> Result<bool, Unreachable> {
        let mut told = self.outside.lock();
        if let Some(passed) = told.waits.pop_front() {
            return Ok(passed);
        }
        let waited = wanted.min(at_most).as_nanos().div_ceil(1_000_000);
        told.waited_ms = told.waited_ms.saturating_add(u64::try_from(waited).unwrap_or(u64::MAX));
        Ok(wanted <= at_most)
    }

    fn random(&self, count: usize) -> Result<Vec<u8>, Unreachable> {
        let mut told = self.outside.lock();
        match told.random.front() {
            Some(bytes) if bytes.len() == count => Ok(told.random.pop_front().unwrap_or_default().into()),
            _ => self.missing(format!("{count} random bytes"), vec![0; count]).map_err(Unreachable),
        }
    }

    fn http(&self, request: &HttpRequest, _: HttpTerms) -> Result<HttpResponse, HttpError> {
        let sent = CapturedRequest::from(request);
        let mut told = self.outside.lock();
        if let Some(at) = told.answers.iter().position(|(request, _)| *request == sent) {
            return told.answers.remove(at).1.again();
        }
        let nothing = HttpFailure::Connect;
        let failure = self.missing(format!("an answer to {} {}", sent.method, sent.url), nothing);
        let failure = failure.map_err(|why| HttpError::Unreachable(Unreachable(why)))?;
        Err(HttpError::Failed { failure, detail: "the capture has no answer".to_owned() })
    }
}

impl StateReader for Recorded {
    fn get(&self, key: &str) -> Result<Option<Bytes>, StateUnavailable> {
        match self.values.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.unknown_read(format!("the key {key:?}"), None),
        }
    }

    fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<StateEntry>, StateUnavailable> {
        let is_it = |(of, from, most, _): &&(String, Option<String>, usize, Vec<StateEntry>)| {
            of == prefix && from.as_deref() == after && *most == limit
        };
        if let Some((.., entries)) = self.lists.iter().find(is_it) {
            return Ok(entries.clone());
        }
        let from = match after.filter(|after| *after >= prefix) {
            Some(after) => Bound::Excluded(after),
            None => Bound::Included(prefix),
        };
        let known = self.values.range::<str, _>((from, Bound::Unbounded));
        let known = known.take_while(|(key, _)| key.starts_with(prefix));
        let entry = |(key, value): (&String, &Option<Bytes>)| {
            Some(StateEntry { key: key.clone(), value: value.clone()? })
        };
        let known = known.filter_map(entry).take(limit).collect();
        self.unknown_read(format!("the keys that begin with {prefix:?}"), known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Blob, FORMAT};

    fn recorded(reads: Vec<Read>, absent: bool) -> Recorded {
        let capture = serde_json::json!({"brolly_capture": FORMAT, "at_ms": 5, "subscription": "s", "terms": {},
            "message": {"id": "m", "topic": "t", "key": "", "content_type": "", "headers": {},
                "published_at_ms": 4, "payload": ""},
            "attempt": 1, "last_attempt": false, "idempotency_key": "s/t/m", "reads": [], "happened":
            {"outcome": "ack", "reason": null, "delay_ms": null, "state": {}, "published": [], "logs": [],
                "logs_dropped": 0}});
        let mut capture: Capture = serde_json::from_value(capture).unwrap();
        capture.reads = reads;
        Recorded::new(&capture, absent)
    }

    #[test]
    fn clocks_tell_the_same_times_as_often_and_then_nothing() {
        let reads = || {
            vec![
                Read::Wall { ms: 7, times: 2 },
                Read::Monotonic { ms: 1, times: 1 },
                Read::Wall { ms: 9, times: 1 },
            ]
        };
        let strict = recorded(reads(), false);
        let told: Vec<_> = (0..4).map(|_| strict.wall_ms()).collect();
        assert_eq!(told[..3], [Ok(7), Ok(7), Ok(9)]);
        assert!(told[3].as_ref().unwrap_err().0.contains("the time once more"));
        assert_eq!(strict.monotonic_ms(), Ok(1));
        let lax = recorded(reads(), true);
        let told: Vec<_> = (0..5).map(|_| lax.wall_ms()).collect();
        assert_eq!(told, [Ok(7), Ok(7), Ok(9), Ok(9), Ok(9)]);
        assert_eq!(lax.unknown().as_deref(), Some("the time once more"));
        assert_eq!(recorded(Vec::new(), true).monotonic_ms(), Ok(1));
    }

    #[test]
    fn who_waits_longer_than_the_captured_attempt_sees_the_clocks_go_on() {
        let reads = vec![Read::Monotonic { ms: 5, times: 1 }, Read::Wait { passed: true }];
        let recorded = recorded(reads, true);
        let wait = |ms: u64| recorded.wait(Duration::from_millis(ms), Duration::from_millis(100));
        assert_eq!((recorded.monotonic_ms(), wait(30), recorded.monotonic_ms()), (Ok(5), Ok(true), Ok(5)));
        assert_eq!((wait(30), recorded.monotonic_ms(), recorded.wall_ms()), (Ok(true), Ok(35), Ok(31)));
        assert_eq!((wait(200), recorded.monotonic_ms()), (Ok(false), Ok(135)));
    }

    #[test]
    fn randomness_and_answers_are_given_once_to_whoever_asks_the_same() {
        let target = brolly_core::HttpTarget::parse(true, "h.example").unwrap();
        let request = |path: &str| HttpRequest {
            method: "GET".into(),
            target: target.clone(),
            path: path.into(),
            headers: Vec::new(),
            body: Bytes::new(),
        };
        let terms = HttpTerms { time: Duration::ZERO, response_bytes: 0, private: false };
        let answer = |status| CapturedAnswer::Response { status, headers: Vec::new(), body: Blob::default() };
        let http =
            |path: &str, status| Read::Http { request: (&request(path)).into(), answer: answer(status) };
        let reads = vec![
            Read::Random { bytes: Blob("abcd".into()) },
            http("/a", 201),
            http("/a", 202),
            http("/b", 203),
        ];
        let recorded = recorded(reads, false);
        assert!(recorded.random(3).is_err(), "other bytes than were asked for");
        assert_eq!(recorded.random(4), Ok(b"abcd".to_vec()));
        assert!(recorded.random(4).is_err());
        let status = |path: &str| recorded.http(&request(path), terms).map(|answer| answer.status);
        assert_eq!((status("/b"), status("/a"), status("/a")), (Ok(203), Ok(201), Ok(202)));
        assert!(
            matches!(status("/a"), Err(HttpError::Unreachable(why)) if why.0.contains("https://h.example/a"))
        );
    }
}
