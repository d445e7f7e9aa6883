//! A candidate beside the running version: it gets a share of the deliveries, by key; both versions handle each of
//! them, one with effect and the other on what the first one read; what came of it is compared off the path of
//! the messages, and judged by the rules.
//!
//! Comparing has a thread of its own and a short queue: while it is behind, deliveries are handled all the same,
//! and counted as not compared.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use brolly_capture::{Capture, Recorded, record};
use brolly_core::{
    Call, Digest, Handled, Handler, HttpError, HttpRequest, HttpResponse, HttpTerms, Judgement, Mode, Name,
    Outcome, Outside, Rollout as Definition, StateEntry, StateReader, StateUnavailable, Unreachable, Verdict,
};
use brolly_ledger::StateView;
use bytes::Bytes;
use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    controller::Parts,
    report::{Report, Role},
};

/// Deliveries that wait to be compared.
const WAITING: usize = 256;

/// A candidate and the running version.
pub(crate) struct Rollout {
    pub definition: Definition,
    running: Hand,
    candidate: Hand,
    samples: mpsc::Sender<Box<Sample>>,
    pub report: Arc<Mutex<Report>>,
    /// Rung when the rules have said something.
    judged: Arc<Notify>,
    /// Ends the comparing with this, whatever waits: a candidate that loops must not hold up a drain.
    _over: DropGuard,
}

/// One of the two versions.
#[derive(Clone)]
pub(crate) struct Hand {
    pub handler: Arc<dyn Handler>,
    pub version: Option<Digest>,
}

/// A delivery that one version has handled, for the other one.
pub(crate) struct Sample {
    role: Role,
    /// None if it would be too large.
    capture: Option<Capture>,
    ran: Ran,
}

/// An attempt, and which version made it.
pub(crate) struct Handling {
    pub handled: Handled,
    pub version: Option<Digest>,
    pub sample: Option<Box<Sample>>,
}

/// What came of an attempt, and what it took.
pub(crate) struct Ran {
    pub handled: Handled,
    pub cpu: Duration,
}

impl Ran {
    fn new(attempt: impl FnOnce() -> Handled) -> Self {
        let before = cpu_time();
        let handled = attempt();
        Self { handled, cpu: cpu_time().saturating_sub(before) }
    }
}

/// CPU time of this thread, on which the handler runs.
fn cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// Whether a key belongs to the share of so many percent. The same on every host and in every version of
/// Brolly (XXH3), so that a key stays with its version.
fn falls_to_candidate(key: &str, id: &str, percent: u32) -> bool {
    let by = if key.is_empty() { id } else { key };
    xxh3_64(by.as_bytes()) % 100 < u64::from(percent)
}

impl Rollout {
    /// A rollout and its comparer, which is to be run on a thread that may block; it ends when the
    /// rollout is dropped.
    pub(crate) fn new(
        definition: Definition,
        [running, candidate]: [Hand; 2],
        report: Arc<Mutex<Report>>,
        (name, parts): (Name, Arc<Parts>),
    ) -> (Arc<Self>, Comparer) {
        let (samples, waiting) = mpsc::channel(WAITING);
        let (judged, over) = (Arc::new(Notify::new()), CancellationToken::new());
        let comparer = Comparer {
            rules: definition.rules.clone(),
            running: running.clone(),
            candidate: candidate.clone(),
            waiting,
            over: over.clone(),
            report: report.clone(),
            judged: judged.clone(),
            name,
            parts,
        };
        let _over = over.drop_guard();
        (Arc::new(Self { definition, running, candidate, samples, report, judged, _over }), comparer)
    }

    /// Has one of the two make an attempt that counts. If its delivery is of the share, there is a sample for
    /// the other one, to be compared once the attempt is decided.
    pub(crate) fn handle(&self, call: &Call<'_>) -> Handling {
        let shared = falls_to_candidate(&call.message.key, &call.message.id, self.definition.percent);
        let (hand, role) = match self.definition.mode {
            Mode::Canary if shared && !self.is_over() => (&self.candidate, Role::Candidate),
            Mode::Canary | Mode::Shadow => (&self.running, Role::Running),
        };
        if !shared {
            return Handling { handled: hand.handler.handle(call), version: hand.version, sample: None };
        }
        let mut capture = None;
        let ran = Ran::new(|| {
            let (handled, noted) = record(&*hand.handler, call);
            capture = noted;
            handled
        });
        let acked = ran.handled.verdict == Verdict::Outcome(Outcome::Ack);
        let sample = Box::new(Sample { role, capture, ran });
        // What a candidate fails at has had no effect: the running version has the word.
        let (handled, hand) = match role {
            Role::Candidate if !acked => (self.running.handler.handle(call), &self.running),
            Role::Candidate | Role::Running => (sample.ran.handled.clone(), hand),
        };
        Handling { handled, version: hand.version, sample: Some(sample) }
    }

    /// Whether the rules have said that the candidate goes; the definition follows in a moment.
    fn is_over(&self) -> bool {
        matches!(self.report.lock().judgement, Judgement::Abandon(_))
    }

    /// Hands a decided attempt on to be compared. What the host could not serve says nothing of a version.
    pub(crate) fn compare(&self, sample: Box<Sample>) {
        let told = !matches!(sample.ran.handled.verdict, Verdict::Unavailable(_));
        if told && (sample.capture.is_none() || self.samples.try_send(sample).is_err()) {
            self.report.lock().skipped += 1;
        }
    }

    /// Waits until the rules have said something.
    pub(crate) async fn judged(&self) -> Judgement {
        loop {
            let judgement = self.report.lock().judgement.clone();
            if judgement != Judgement::Wait {
                return judgement;
            }
            self.judged.notified().await;
        }
    }
}

/// Repeats what one version did with the other one.
pub(crate) struct Comparer {
    rules: brolly_core::Rules,
    running: Hand,
    candidate: Hand,
    waiting: mpsc::Receiver<Box<Sample>>,
    over: CancellationToken,
    report: Arc<Mutex<Report>>,
    judged: Arc<Notify>,
    name: Name,
    parts: Arc<Parts>,
}

/// What the first attempt was given; of what it did not ask for, the state and the clocks of now. No request is
/// sent: what was not asked then has no answer.
struct Given<'a> {
    recorded: &'a Recorded,
    state: &'a StateView,
    outside: &'a dyn Outside,
}

impl StateReader for Given<'_> {
    fn get(&self, key: &str) -> Result<Option<Bytes>, StateUnavailable> {
        self.recorded.get(key).or_else(|_| self.state.get(key))
    }

    fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<StateEntry>, StateUnavailable> {
        self.recorded.list(prefix, after, limit).or_else(|_| self.state.list(prefix, after, limit))
    }
}

impl Outside for Given<'_> {
    fn wall_ms(&self) -> Result<u64, Unreachable> {
        self.recorded.wall_ms().or_else(|_| self.outside.wall_ms())
    }

    fn monotonic_ms(&self) -> Result<u64, Unreachable> {
        self.recorded.monotonic_ms().or_else(|_| self.outside.monotonic_ms())
    }

    fn wait(&self, wanted: Duration, at_most: Duration) -> Result<bool, Unreachable> {
        self.recorded.wait(wanted, at_most)
    }

    fn random(&self, count: usize) -> Result<Vec<u8>, Unreachable> {
        self.recorded.random(count).or_else(|_| self.outside.random(count))
    }

    fn http(&self, request: &HttpRequest, terms: HttpTerms) -> Result<HttpResponse, HttpError> {
        self.recorded.http(request, terms)
    }
}

/// How often the report is written down while it changes.
const WRITING: Duration = Duration::from_secs(1);

impl Comparer {
    /// Compares until the rollout is gone. Blocks.
    pub(crate) fn run(mut self) {
        let mut written = Instant::now();
        while let Some(sample) = self.waiting.blocking_recv() {
            if self.over.is_cancelled() {
                self.report.lock().skipped += 1;
                continue;
            }
            self.compare(*sample);
            if written.elapsed() >= WRITING {
                self.write();
                written = Instant::now();
            }
        }
        self.write();
    }

    fn compare(&self, sample: Sample) {
        let Sample { role, capture: Some(capture), ran } = sample else { return };
        let other = match role {
            Role::Running => &self.candidate,
            Role::Candidate => &self.running,
        };
        let recorded = Recorded::new(&capture, false);
        let state = self.parts.ledger.state(&self.name);
        let given = Given { recorded: &recorded, state: &state, outside: &*self.parts.outside };
        let repeated = Ran::new(|| capture.again(&*other.handler, &given, &given));
        if matches!(repeated.handled.verdict, Verdict::Unavailable(_)) {
            self.report.lock().skipped += 1;
            return;
        }
        let (running, candidate) = match role {
            Role::Running => (&ran, &repeated),
            Role::Candidate => (&repeated, &ran),
        };
        let mut report = self.report.lock();
        report.compare(&capture, running, candidate, self.parts.clock.now());
        if report.judgement == Judgement::Wait {
            report.judgement = self.rules.judge(&report.score());
            if report.judgement != Judgement::Wait {
                self.judged.notify_one();
            }
        }
    }

    fn write(&self) {
        let report = self.report.lock().fitting();
        if let Err(error) = self.parts.ledger.put_rollout(&self.name, &report) {
            tracing::error!(subscription = %self.name, %error, "what is known of a rollout could not be written down");
        }
    }
}
