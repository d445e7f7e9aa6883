//! What lies outside of the sandbox while samples run: a clock that stands still, numbers that only look
//! random, and servers that answer as the document says. Nothing is sent.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use brolly_core::{HttpError, HttpFailure, HttpRequest, HttpResponse, HttpTerms, Outside, Unreachable};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The field `outside` of a document. Each sample begins with it anew.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Script {
    /// The time at which every sample begins, in milliseconds since 1970. It goes on only while a handler
    /// waits.
    now_ms: u64,
    /// Where the row of random numbers begins.
    seed: u64,
    /// What servers answer.
    answers: Vec<Scripted>,
}

/// One answer, given as often as its request comes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Scripted {
    /// None means any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    method: Option<String>,
    url: String,
    status: u16,
    #[serde(default)]
    body: String,
}

/// A script while one sample runs.
pub struct Played<'a> {
    script: &'a Script,
    waited_ms: AtomicU64,
    drawn: AtomicU64,
}

impl Script {
    /// For one sample.
    pub fn play(&self) -> Played<'_> {
        Played { script: self, waited_ms: AtomicU64::new(0), drawn: AtomicU64::new(self.seed) }
    }
}

impl Played<'_> {
    /// The next number of the row (splitmix64).
    fn draw(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut mixed = self.drawn.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

impl Outside for Played<'_> {
    fn wall_ms(&self) -> Result<u64, Unreachable> {
        Ok(self.script.now_ms.saturating_add(self.waited_ms.load(Ordering::Relaxed)))
    }

    fn monotonic_ms(&self) -> Result<u64, Unreachable> {
        Ok(self.waited_ms.load(Ordering::Relaxed).saturating_add(1))
    }

    fn wait(&self, wanted: Duration, at_most: Duration) -> Result<bool, Unreachable> {
        let waited = wanted.min(at_most).as_nanos().div_ceil(1_000_000);
        self.waited_ms.fetch_add(u64::try_from(waited).unwrap_or(u64::MAX), Ordering::Relaxed);
        Ok(wanted <= at_most)
    }

    fn random(&self, count: usize) -> Result<Vec<u8>, Unreachable> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            bytes.extend(self.draw().to_le_bytes());
        }
        bytes.truncate(count);
        Ok(bytes)
    }

    fn http(&self, request: &HttpRequest, terms: HttpTerms) -> Result<HttpResponse, HttpError> {
        let url = request.url();
        let fits = |answer: &&Scripted| {
            answer.url == url && answer.method.as_ref().is_none_or(|method| *method == request.method)
        };
        let Some(answer) = self.script.answers.iter().find(fits) else {
            let detail = format!("the document has no answer to {} {url} (outside.answers)", request.method);
            return Err(HttpError::Failed { failure: HttpFailure::Connect, detail });
        };
        if answer.body.len() as u64 > terms.response_bytes {
            return Err(HttpError::TooLarge);
        }
        let body = Bytes::from(answer.body.clone());
        Ok(HttpResponse { status: answer.status, headers: Vec::new(), body })
    }
}

#[cfg(test)]
mod tests {
    use brolly_core::HttpTarget;

    use super::*;

    #[test]
    fn a_script_is_played_the_same_each_time() {
        let script: Script = serde_json::from_value(serde_json::json!({"now_ms": 1_000, "seed": 7,
            "answers": [{"method": "POST", "url": "https://h.example/a", "status": 201, "body": "ok"}]}))
        .unwrap();
        let play = || {
            let played = script.play();
            let waited = played.wait(Duration::from_millis(30), Duration::from_secs(1));
            let too_long = played.wait(Duration::from_secs(9), Duration::from_millis(5));
            (played.wall_ms(), waited, too_long, played.monotonic_ms(), played.random(12))
        };
        assert_eq!(play(), play());
        let (wall, waited, too_long, monotonic, random) = play();
        assert_eq!((wall, waited, too_long, monotonic), (Ok(1_035), Ok(true), Ok(false), Ok(36)));
        assert_eq!(random.unwrap().len(), 12);
        let send = |method: &str| {
            let request = HttpRequest {
                method: method.into(),
                target: HttpTarget::parse(true, "h.example").unwrap(),
                path: "/a".into(),
                headers: Vec::new(),
                body: Bytes::new(),
            };
            let terms = HttpTerms { time: Duration::ZERO, response_bytes: 2, private: false };
            script.play().http(&request, terms)
        };
        assert_eq!(send("POST").unwrap().status, 201);
        let missing = send("GET").unwrap_err();
        assert!(format!("{missing:?}").contains("no answer to GET https://h.example/a"), "{missing:?}");
    }
}
