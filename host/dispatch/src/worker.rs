//! The life of a delivery: taken, begun, handled, decided, finished, settled.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use brolly_core::{
    Clock, Code, Commit, Decision, Delivery, Effects, Handled, Lease, Message, Name, Outcome, Refusal,
    Settlement, Source, Verdict, decide,
};
use brolly_ledger::{AttemptOutcome, Begin, Begun, Finish, Finished, Ledger, StateView};
use parking_lot::RwLock;
use tokio_util::sync::CancellationToken;

use crate::{
    Error,
    meters::Meters,
    plan::Plan,
    publishing::Publisher,
    status::{Board, Took},
    traces::{self, Place, Span, Tracer},
};

/// An attempt that lost so many races for the state that it read runs the next time alone.
const RACES: u32 = 3;

/// Handles the deliveries of one subscription; shared by its workers.
pub(crate) struct Worker {
    pub name: Name,
    pub queue: Name,
    pub source: Arc<dyn Source>,
    pub ledger: Arc<Ledger>,
    pub publisher: Publisher,
    pub clock: Arc<dyn Clock>,
    pub plan: ArcSwap<Plan>,
    pub meters: Meters,
    /// None where nobody wants traces.
    pub tracer: Option<Tracer>,
    /// The kind of broker that the deliveries come from.
    pub system: &'static str,
    pub board: Arc<Board>,
    /// Held by every attempt, and by one that runs alone exclusively.
    pub alone: RwLock<()>,
}

impl Worker {
    /// Waits for deliveries and handles them until it is told to stop.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) -> Result<(), Error> {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                ready = self.source.ready() => ready?,
            }
            // A handler keeps its thread busy for as long as it likes, within its limits: it gets
            // one on which no other subscription depends, and the kernel shares the processors out.
            let (worker, stop) = (self.clone(), stop.clone());
            let stint = tokio::task::spawn_blocking(move || worker.handle_ready(&stop));
            stint.await.map_err(|error| Error::Task { what: "a worker", why: error.to_string() })??;
        }
    }

    /// Handles deliveries until none is ready. Takes before it looks at `stop`: the wake-up that
    /// brought it here must reach the next worker.
    fn handle_ready(&self, stop: &CancellationToken) -> Result<(), Error> {
        while let Some(delivery) = self.source.take()? {
            self.handle(&delivery)?;
            if stop.is_cancelled() {
                break;
            }
        }
        Ok(())
    }

    /// One delivery, from being taken to its outcome being on the way to the disk.
    pub(crate) fn handle(&self, delivery: &Delivery) -> Result<(), Error> {
        let held = Held { source: &*self.source, lease: Some(delivery.lease) };
        let plan = self.plan.load();
        let begun =
            match self.ledger.begin(&self.name, &self.queue, delivery, plan.forwards(), self.clock.now())? {
                Begin::Attempt(begun) => begun,
                Begin::Early(delay) => {
                    held.give_back(delay);
                    return Ok(());
                }
                Begin::Decided(settlement) => {
                    self.meters.settled_again.increment(1);
                    self.publisher.submit(|commit| self.stage_settlement(delivery, settlement, commit));
                    held.pass_on();
                    return Ok(());
                }
            };
        self.meters.consumed.increment(1);
        for races in 0.. {
            let _alone = (races >= RACES).then(|| self.alone.write());
            let _beside = (races < RACES).then(|| self.alone.read());
            let state = self.ledger.state(&self.name);
            let attempt = self.attempt(&plan, delivery, &begun, &state);
            match self.finish(&plan, delivery, &begun, &state, attempt)? {
                Finish::Submitted => break,
                Finish::Conflict => self.meters.conflicts.increment(1),
            }
        }
        held.pass_on();
        Ok(())
    }

    fn attempt(&self, plan: &Plan, delivery: &Delivery, begun: &Begun, state: &StateView) -> Attempt {
        let at = self.clock.now();
        if let Some(reason) = &delivery.unfit {
            return Attempt::unhandled(at, AttemptOutcome::Unfit, reason.clone());
        }
        if let Some(reason) = plan.expired(&delivery.message, at) {
            return Attempt::unhandled(at, AttemptOutcome::Expired, reason);
        }
        let span = self.tracer.as_ref().map_or(Span::NONE, |tracer| {
            let place = Place { system: self.system, queue: &self.queue, subscription: &self.name };
            tracer.attempt(&place, &delivery.message, begun.attempt)
        });
        let mut handled = plan.handle(&delivery.message, begun, state);
        traces::hand_on(self.tracer.as_ref(), &span, &delivery.message, &mut handled.effects.publish);
        let decision = decide(&handled.verdict, begun.attempt, &plan.definition.retry, fastrand::f64());
        let outcome = outcome_of(&handled.verdict);
        self.meters.took(outcome, handled.duration);
        Attempt { at, decision, outcome, handled, span }
    }

    /// Makes the decision durable with everything that belongs to it. What cannot be published now
    /// turns an acknowledgement into a release: the delivery rests and is handled anew.
    fn finish(
        &self,
        plan: &Plan,
        delivery: &Delivery,
        begun: &Begun,
        state: &StateView,
        mut attempt: Attempt,
    ) -> Result<Finish, Error> {
        if attempt.decision == Decision::Ack {
            match self.publisher.ensure_topics(&self.name, &attempt.handled.effects.publish) {
                Err(Error::Refused(refusal)) => attempt.release(&refusal, begun, plan),
                ensured => ensured?,
            }
        }
        loop {
            let finished = attempt.finished(plan);
            let settlement = finished.decision.settlement(begun.attempt);
            let publish = match finished.decision {
                Decision::Ack => finished.effects.publish.as_slice(),
                Decision::Retry { .. } | Decision::DeadLetter { .. } | Decision::Release { .. } => &[],
            };
            let decision = finished.decision.clone();
            let done = self.ledger.finish(begun, &delivery.message, finished, state, |commit| {
                self.stage_settlement(delivery, settlement, commit);
                let mut published = self.publisher.stage(publish, begun, commit)?;
                published.extend(plan.forwarded(&delivery.message, &decision));
                Ok(published)
            });
            match done {
                Ok(Finish::Submitted) => {
                    self.tell(attempt, &delivery.message);
                    return Ok(Finish::Submitted);
                }
                Ok(Finish::Conflict) => {
                    attempt.span.outcome("conflict", None);
                    return Ok(Finish::Conflict);
                }
                Err(Error::Refused(refusal)) if passes(&refusal) => attempt.release(&refusal, begun, plan),
                Err(error) => return Err(error),
            }
        }
    }

    fn stage_settlement(&self, delivery: &Delivery, settlement: Settlement, commit: &mut Commit) {
        self.source.stage(delivery, settlement, commit);
        let (source, lease) = (self.source.clone(), delivery.lease);
        commit.then(move || source.settle(lease, settlement));
    }

    fn tell(&self, mut attempt: Attempt, message: &Message) {
        self.meters.decided(&attempt.decision);
        if let Some(took) = attempt.took(message) {
            self.board.took(&took, attempt.at);
        }
        if attempt.decision == Decision::Ack {
            self.publisher.count(&attempt.handled.effects.publish);
        }
        attempt.trace();
        let news = self.board.tell(&attempt.decision, attempt.at);
        if let Decision::Release { reason, delay } = &attempt.decision
            && news
        {
            tracing::warn!(subscription = %self.name, reason, ?delay, "deliveries are put back by the host");
        }
    }
}

/// One attempt at a delivery, not yet durable.
struct Attempt {
    at: brolly_core::Timestamp,
    decision: Decision,
    outcome: AttemptOutcome,
    handled: Handled,
    /// Ends with the attempt.
    span: Span,
}

impl Attempt {
    /// A dead letter that no handler has seen.
    fn unhandled(at: brolly_core::Timestamp, outcome: AttemptOutcome, reason: String) -> Self {
        let handled = Handled {
            verdict: Verdict::Outcome(Outcome::Reject { reason: reason.clone() }),
            effects: Effects::default(),
            logs: Vec::new(),
            logs_dropped: 0,
            duration: Duration::ZERO,
            memory_bytes: 0,
        };
        Self { at, decision: Decision::DeadLetter { reason }, outcome, handled, span: Span::NONE }
    }

    /// Writes what came of it into its span.
    fn trace(&mut self) {
        let (outcome, why) = match &self.decision {
            Decision::Ack => ("ack", None),
            Decision::Retry { reason, .. } => ("retry", Some(reason)),
            Decision::DeadLetter { reason } => ("dead_letter", Some(reason)),
            Decision::Release { reason, .. } => ("release", Some(reason)),
        };
        let kind = if self.outcome == AttemptOutcome::Fault { "fault" } else { outcome };
        self.span.outcome(outcome, why.map(|why| (kind, why.as_str())));
    }

    fn release(&mut self, refusal: &Refusal, begun: &Begun, plan: &Plan) {
        let verdict =
            Verdict::Unavailable(format!("what it publishes is not accepted now: {}", refusal.detail));
        self.decision = decide(&verdict, begun.attempt, &plan.definition.retry, 0.5);
    }

    /// How long a handler took, if one has decided.
    fn took(&self, message: &Message) -> Option<Took> {
        let handled = match self.decision {
            Decision::Ack => Some(self.at.since(message.published_at) + self.handled.duration),
            Decision::Retry { .. } | Decision::DeadLetter { .. } => None,
            Decision::Release { .. } => return None,
        };
        self.outcome.is_a_handlers().then_some(Took { attempt: self.handled.duration, handled })
    }

    fn finished(&mut self, plan: &Plan) -> Finished<'_> {
        Finished {
            decision: &self.decision,
            outcome: self.outcome,
            effects: &self.handled.effects,
            version: self.outcome.is_a_handlers().then_some(plan.definition.version).flatten(),
            at: self.at,
            duration_us: u64::try_from(self.handled.duration.as_micros()).unwrap_or(u64::MAX),
            memory_bytes: self.handled.memory_bytes,
            logs: self.handled.logs.clone(),
            logs_dropped: self.handled.logs_dropped,
        }
    }
}

fn outcome_of(verdict: &Verdict) -> AttemptOutcome {
    match verdict {
        Verdict::Outcome(Outcome::Ack) => AttemptOutcome::Ack,
        Verdict::Outcome(Outcome::Retry { .. }) | Verdict::Unavailable(_) => AttemptOutcome::Retry,
        Verdict::Outcome(Outcome::Reject { .. }) => AttemptOutcome::Reject,
        Verdict::Fault(_) => AttemptOutcome::Fault,
    }
}

/// Whether what a publish was refused for passes by itself or with an operator's help, so that the
/// delivery should wait for it.
pub(crate) fn passes(refusal: &Refusal) -> bool {
    matches!(refusal.code, Code::QueueFull | Code::DiskFull | Code::Unavailable | Code::NotFound)
}

/// A delivery in the worker's hands. Whatever goes wrong, a panic of the host included, it goes back.
struct Held<'a> {
    source: &'a dyn Source,
    lease: Option<Lease>,
}

impl Held<'_> {
    /// It is to be taken again when the delay has passed.
    fn give_back(mut self, delay: Duration) {
        if let Some(lease) = self.lease.take() {
            self.source.give_back(lease, delay);
        }
    }

    /// Its settlement is on the way.
    fn pass_on(mut self) {
        self.lease = None;
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some(lease) = self.lease {
            self.source.give_back(lease, Duration::ZERO);
        }
    }
}
