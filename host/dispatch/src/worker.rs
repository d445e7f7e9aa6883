//! The life of a delivery: taken, begun, handled, decided, finished, settled.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use brolly_core::{
    Clock, Code, Commit, Decision, Delivery, Digest, Effects, Handled, Lease, Message, Name, Outcome,
    Refusal, Settlement, Source, Verdict, decide,
};
use brolly_ledger::{AttemptOutcome, Begin, Begun, Finish, Finished, Ledger, StateView};
use parking_lot::RwLock;
use tokio_util::sync::CancellationToken;

use crate::{
    Error,
    breaker::Pass,
    meters::Meters,
    plan::Plan,
    publishing::Publisher,
    rollout::{Handling, Sample},
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
            if !self.has_leave(&stop).await {
                return self.wake_another();
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
            let plan = self.plan.load();
            let paced = plan.pace.as_ref().is_none_or(|pace| pace.leave().is_ok());
            let tired = self.board.streak.pause().is_some();
            if stop.is_cancelled() || !paced || tired || plan.tenure.is_halted() {
                break;
            }
        }
        Ok(())
    }

    /// Waits until guard and rate of the subscription allow an attempt, and makes the pause that a long run of
    /// retries asks for; false if it is to stop before.
    async fn has_leave(&self, stop: &CancellationToken) -> bool {
        let (plan, pause) = (self.plan.load_full(), self.board.streak.pause());
        if plan.pace.is_none() && pause.is_none() && !plan.tenure.is_halted() {
            return true;
        }
        let allowed = async {
            if let Some(pause) = pause {
                tokio::time::sleep(pause).await;
            }
            plan.tenure.resumed().await;
            if let Some(pace) = &plan.pace {
                pace.wait().await;
            }
        };
        stop.run_until_cancelled(allowed).await.is_some()
    }

    /// The wake-up that this worker got and has no use for must reach another one.
    fn wake_another(&self) -> Result<(), Error> {
        if let Some(delivery) = self.source.take()? {
            self.source.give_back(delivery.lease, Duration::ZERO);
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
        let now = self.clock.now();
        let pass = match Pass::for_delivery(&self.board.breaker, begun.record(), now, fastrand::f64()) {
            Ok(pass) => pass,
            Err(delay) => {
                self.meters.held_back.increment(1);
                let settlement = Settlement::Release { delay };
                self.publisher.submit(|commit| self.stage_settlement(delivery, settlement, commit));
                held.pass_on();
                return Ok(());
            }
        };
        self.meters.consumed.increment(1);
        let mut turn = plan.tenure.take(begun.record(), now);
        let attempt = self.until_decided(&plan, delivery, &begun, &pass)?;
        turn.ends(&attempt.decision, self.clock.now());
        attempt.answers(pass);
        held.pass_on();
        Ok(())
    }

    /// Attempts a delivery until its decision is on the way to the disk.
    fn until_decided(
        &self,
        plan: &Plan,
        delivery: &Delivery,
        begun: &Begun,
        pass: &Pass<'_>,
    ) -> Result<Attempt, Error> {
        let mut races = 0;
        loop {
            let _alone = (races >= RACES).then(|| self.alone.write());
            let _beside = (races < RACES).then(|| self.alone.read());
            let state = self.ledger.state(&self.name);
            let mut attempt = self.attempt(plan, delivery, begun, &state, pass);
            match self.finish(plan, delivery, begun, &state, &mut attempt)? {
                Finish::Submitted => {
                    self.tell(plan, &mut attempt, &delivery.message);
                    return Ok(attempt);
                }
                Finish::Conflict => {
                    attempt.span.outcome("conflict", None);
                    self.meters.conflicts.increment(1);
                    races += 1;
                }
            }
        }
    }

    fn attempt(
        &self,
        plan: &Plan,
        delivery: &Delivery,
        begun: &Begun,
        state: &StateView,
        pass: &Pass<'_>,
    ) -> Attempt {
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
        let Handling { mut handled, version, sample } = plan.handle(&delivery.message, begun, state);
        traces::hand_on(self.tracer.as_ref(), &span, &delivery.message, &mut handled.effects.publish);
        let spared = plan.tenure.spares(at);
        let retry = &plan.definition.retry;
        let mut decision = decide(&handled.verdict, begun.attempt, retry, spared, fastrand::f64());
        if let Verdict::Outcome(Outcome::Retry { dependency: Some(name), reason, .. }) = &handled.verdict
            && let Decision::Retry { delay, .. } = &mut decision
            && let Some(rests) = pass.missed(name, reason, self.clock.now(), fastrand::f64())
        {
            *delay = rests.max(*delay);
        }
        let outcome = outcome_of(&handled.verdict);
        self.meters.took(outcome, handled.duration);
        Attempt { at, decision, outcome, handled, version, sample, span }
    }

    /// Makes the decision durable with everything that belongs to it. What cannot be published now
    /// turns an acknowledgement into a release: the delivery rests and is handled anew.
    fn finish(
        &self,
        plan: &Plan,
        delivery: &Delivery,
        begun: &Begun,
        state: &StateView,
        attempt: &mut Attempt,
    ) -> Result<Finish, Error> {
        if attempt.decision == Decision::Ack {
            match self.publisher.ensure_topics(&self.name, &attempt.handled.effects.publish) {
                Err(Error::Refused(refusal)) => attempt.release(&refusal, begun, plan),
                ensured => ensured?,
            }
        }
        loop {
            let finished = attempt.finished();
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
                Ok(done) => return Ok(done),
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

    fn tell(&self, plan: &Plan, attempt: &mut Attempt, message: &Message) {
        self.meters.decided(&attempt.decision);
        if let (Some(rollout), Some(sample)) = (&plan.rollout, attempt.sample.take()) {
            rollout.compare(sample);
        }
        if let Verdict::Fault(fault) = &attempt.handled.verdict
            && attempt.version == plan.definition.version
        {
            plan.tenure.fault(&fault.to_string(), attempt.at);
        }
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
    /// The version of the handler, if one has seen it.
    version: Option<Digest>,
    /// For the version beside, if there is a rollout.
    sample: Option<Box<Sample>>,
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
        let (decision, span) = (Decision::DeadLetter { reason }, Span::NONE);
        Self { at, decision, outcome, handled, version: None, sample: None, span }
    }

    /// Tells the breaker what became of the leave for the attempt.
    fn answers(&self, pass: Pass<'_>) {
        if !self.outcome.is_a_handlers() {
            return;
        }
        match &self.handled.verdict {
            Verdict::Outcome(Outcome::Retry { dependency: Some(_), .. }) => pass.rests(),
            Verdict::Outcome(_) | Verdict::Fault(_) => pass.answered(),
            // It is not known whether what it needs can be reached.
            Verdict::Unavailable(_) => drop(pass),
        }
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
        self.decision = decide(&verdict, begun.attempt, &plan.definition.retry, false, 0.5);
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

    fn finished(&mut self) -> Finished<'_> {
        Finished {
            decision: &self.decision,
            outcome: self.outcome,
            effects: &self.handled.effects,
            version: self.version,
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
