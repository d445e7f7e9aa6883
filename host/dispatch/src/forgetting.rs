//! Has the ledger forget what is older than the history is to be kept, as fast as it gets old.

use std::time::{Duration, Instant};

use brolly_core::Name;
use tokio_util::sync::CancellationToken;

use crate::Handle;

/// How long after everything old was looked at the next look begins.
const PAUSE: Duration = Duration::from_secs(1);

/// Looking at what stays rests for so many times as long as it takes: it has a tenth of a processor at most,
/// whatever the number of old messages that still wait or are dead letters.
const REST: f64 = 9.0;

/// Forgets until it is told to stop.
pub(crate) async fn run(handle: Handle, stop: CancellationToken) {
    let (mut next, mut trouble) = (None, String::new());
    loop {
        let rest = sweep(&handle, &mut next, &mut trouble).await;
        let pause = if next.is_none() { rest.max(PAUSE) } else { rest };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Looks at some of what is old, from `next` on, and answers how long to rest.
async fn sweep(handle: &Handle, next: &mut Option<u64>, trouble: &mut String) -> Duration {
    let parts = handle.parts().clone();
    let now = parts.clock.now();
    let (cutoff, after) = (now.before(Duration::from_millis(handle.config().history_ms)), *next);
    let look = move || {
        let began = Instant::now();
        let definitions = parts.catalog.snapshot();
        // Nobody takes from a queue that is not there any more.
        let may_deliver_again = |queue: &Name| {
            definitions.queues.contains_key(queue)
                && match parts.brokers.of_queue(&definitions, queue) {
                    Ok(broker) => broker.may_deliver_again(queue),
                    Err(_) => true,
                }
        };
        let swept = parts.ledger.sweep(cutoff, now, after, may_deliver_again);
        (swept, began.elapsed())
    };
    let Ok((swept, took)) = tokio::task::spawn_blocking(look).await else {
        tell("the sweep broke off", trouble);
        *next = None;
        return PAUSE;
    };
    if let Some(error) = swept.unreadable {
        tell(&error.to_string(), trouble);
    }
    if swept.removed > 0 {
        metrics::counter!("brolly_messages_forgotten_total").increment(swept.removed);
        tracing::debug!(
            removed = swept.removed,
            "messages older than the history is kept for were forgotten"
        );
        // Whatever fails here ends the host.
        let _ = handle.parts().ledger.flushed().await;
    }
    // Someone was at the dead letters, and nothing was looked at.
    let waits = swept.next.is_some() && swept.looked_at == 0;
    *next = swept.next;
    if waits {
        return PAUSE;
    }
    let stays = swept.looked_at.saturating_sub(swept.removed);
    took.mul_f64(REST * share(stays, swept.looked_at))
}

/// Says once what keeps happening.
fn tell(error: &str, trouble: &mut String) {
    if error != trouble {
        tracing::error!(error, "old history could not be removed");
        error.clone_into(trouble);
    }
}

#[allow(clippy::cast_precision_loss, reason = "numbers of messages that were looked at together")]
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
