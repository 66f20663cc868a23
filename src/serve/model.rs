//! The thread that owns the model. It takes requests from a bounded queue and computes them in flat batches.

use std::collections::VecDeque;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use align_model::ScalarModel;
use align_reward::eval::score_batch;
use align_reward::responses::Responses;
use anyhow::Context;
use tokio::sync::{mpsc, oneshot};

/// Tokens computed at once.
const BATCH_TOKENS: usize = 8192;
/// The number of requests that take turns.
const TURNS: usize = 64;

/// A request's responses, and the channel for their scores.
pub(super) struct Job {
    pub(super) rows: Arc<Vec<Responses>>,
    /// Receives the scores of all responses, in order. It is dropped if the model fails; the client may have
    /// disconnected before.
    pub(super) reply: oneshot::Sender<Vec<f64>>,
}

/// Starts the thread, which loads the model first. It ends after the last request, once all senders are
/// dropped.
///
/// # Errors
/// Those of `load`, and a thread that cannot start.
pub(super) fn start(
    load: impl FnOnce() -> align_core::error::Result<ScalarModel> + Send + 'static,
    queue: usize,
) -> anyhow::Result<(mpsc::Sender<Job>, JoinHandle<()>)> {
    let (sender, jobs) = mpsc::channel(queue);
    let (loaded, is_loaded) = std::sync::mpsc::channel();
    let run = move || {
        let model = match load() {
            Ok(model) => model,
            Err(error) => return loaded.send(Err(error)).expect("the caller waits"),
        };
        loaded.send(Ok(())).expect("the caller waits");
        work(jobs, |parts: &[Part]| {
            let branches = parts.iter().map(|part| part.rows[part.row].branches(part.run.clone()));
            score_batch(&model, branches)
        });
    };
    let thread = std::thread::Builder::new().name("model".to_owned()).spawn(run);
    let thread = thread.context("the model's thread cannot start")?;
    is_loaded.recv().context("the model's thread ended while it loaded the model")??;
    Ok((sender, thread))
}

/// Responses of one row that are computed at once.
struct Part {
    rows: Arc<Vec<Responses>>,
    row: usize,
    run: Range<usize>,
}

/// A request that is being computed.
struct Turn {
    job: Job,
    /// The remaining parts: (row, responses, tokens).
    rest: VecDeque<(usize, Range<usize>, usize)>,
    scores: Vec<f64>,
}

impl Turn {
    fn new(job: Job) -> Self {
        let of_row = |(row, responses): (usize, &Responses)| -> Vec<_> {
            let tokens = |range: &Range<usize>| responses.branches(range.clone()).len();
            responses.microbatches(BATCH_TOKENS).into_iter().map(|run| (row, run.clone(), tokens(&run))).collect()
        };
        let rest = job.rows.iter().enumerate().flat_map(of_row).collect();
        Self { job, rest, scores: Vec::new() }
    }

    /// Replies if everything is computed; otherwise returns the request.
    fn unfinished(self) -> Option<Self> {
        if !self.rest.is_empty() {
            return Some(self);
        }
        let _ = self.job.reply.send(self.scores); // ignored if the client has disconnected
        None
    }
}

/// Computes batches. Requests take turns, so that a long one does not delay short ones.
fn work(mut jobs: mpsc::Receiver<Job>, score: impl Fn(&[Part]) -> Vec<f64>) {
    let mut turns: VecDeque<Turn> = VecDeque::new();
    loop {
        if turns.is_empty() {
            let Some(job) = jobs.blocking_recv() else { return };
            turns.push_back(Turn::new(job));
        }
        while turns.len() < TURNS
            && let Ok(job) = jobs.try_recv()
        {
            turns.push_back(Turn::new(job));
        }
        turns.retain(|turn| !turn.job.reply.is_closed());
        let (owners, parts): (Vec<usize>, Vec<Part>) = fill(&mut turns).into_iter().unzip();
        match catch_unwind(AssertUnwindSafe(|| if parts.is_empty() { Vec::new() } else { score(&parts) })) {
            Ok(scores) => {
                let mut rest = scores.into_iter();
                for (owner, part) in owners.iter().zip(&parts) {
                    turns[*owner].scores.extend(rest.by_ref().take(part.run.len()));
                }
            }
            // Dropping the reply reports the failure to its requests; others continue.
            Err(_) => {
                let mut all = 0..;
                turns.retain(|_| all.next().is_none_or(|turn| !owners.contains(&turn)));
            }
        }
        turns = turns.into_iter().filter_map(Turn::unfinished).collect();
        if !turns.is_empty() {
            turns.rotate_left(1);
        }
    }
}

/// The next batch: parts of the requests in turn, up to the token limit; at least one.
fn fill(turns: &mut VecDeque<Turn>) -> Vec<(usize, Part)> {
    let (mut batch, mut filled) = (Vec::new(), 0);
    loop {
        let before = batch.len();
        for (owner, turn) in turns.iter_mut().enumerate() {
            let fits = |tokens: usize| filled == 0 || filled + tokens <= BATCH_TOKENS;
            if turn.rest.front().is_some_and(|(_, _, tokens)| fits(*tokens))
                && let Some((row, run, tokens)) = turn.rest.pop_front()
            {
                filled += tokens;
                batch.push((owner, Part { rows: turn.job.rows.clone(), row, run }));
            }
        }
        if batch.len() == before {
            return batch;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request of one row per list of tail lengths; its scores are the tails' lengths.
    fn job(rows: &[&[usize]]) -> (Job, oneshot::Receiver<Vec<f64>>) {
        let row = |tails: &&[usize]| Responses {
            prefix: Vec::new(),
            tails: tails.iter().map(|length| vec![0; *length]).collect(),
            is_list: true,
        };
        let (reply, answer) = oneshot::channel();
        (Job { rows: Arc::new(rows.iter().map(row).collect()), reply }, answer)
    }

    fn lengths(part: &Part) -> Vec<f64> {
        part.rows[part.row].tails[part.run.clone()].iter().map(|tail| tail.len() as f64).collect()
    }

    /// Computes jobs that are all queued at the start, and returns the token count of each batch.
    fn batches(jobs: Vec<Job>, fail_at: Option<usize>) -> Vec<usize> {
        let (sender, receiver) = mpsc::channel(jobs.len());
        jobs.into_iter().for_each(|job| assert!(sender.try_send(job).is_ok()));
        drop(sender);
        let seen = std::cell::RefCell::new(Vec::new());
        work(receiver, |parts| {
            let scores: Vec<f64> = parts.iter().flat_map(lengths).collect();
            seen.borrow_mut().push(scores.iter().sum::<f64>() as usize);
            assert_ne!(Some(seen.borrow().len()), fail_at, "planned");
            scores
        });
        seen.into_inner()
    }

    #[test]
    fn waiting_requests_share_batches_and_each_gets_its_own_scores() {
        let ((a, mut of_a), (b, mut of_b), (c, mut of_c)) =
            (job(&[&[5], &[3, 2]]), job(&[&[7]]), job(&[&[1, 1], &[4]]));
        assert_eq!(batches(vec![a, b, c], None), [23]);
        assert_eq!(of_a.try_recv().unwrap(), [5.0, 3.0, 2.0]);
        assert_eq!(of_b.try_recv().unwrap(), [7.0]);
        assert_eq!(of_c.try_recv().unwrap(), [1.0, 1.0, 4.0]);
    }

    #[test]
    fn a_long_request_takes_turns_with_short_ones() {
        let (long, mut of_long) = job(&[&[8000], &[9000], &[8000, 8000]]);
        let (short, mut of_short) = job(&[&[500]]);
        // The short one does not fit into a batch with the first part, and does not wait for the second.
        assert_eq!(batches(vec![long, short], None), [8000, 500, 9000, 8000, 8000]);
        assert_eq!(of_long.try_recv().unwrap(), [8000.0, 9000.0, 8000.0, 8000.0]);
        assert_eq!(of_short.try_recv().unwrap(), [500.0]);
    }

    #[test]
    fn nothing_is_computed_for_disconnected_clients() {
        let ((gone, answer), (stays, mut of_stays)) = (job(&[&[5]]), job(&[&[6]]));
        drop(answer);
        assert_eq!(batches(vec![gone, stays], None), [6]);
        assert_eq!(of_stays.try_recv().unwrap(), [6.0]);
    }

    #[test]
    fn a_failure_affects_its_own_batch_only() {
        let ((a, mut of_a), (b, mut of_b)) = (job(&[&[8000]]), job(&[&[8001]]));
        assert_eq!(batches(vec![a, b], Some(1)), [8000, 8001]);
        assert!(of_a.try_recv().is_err());
        assert_eq!(of_b.try_recv().unwrap(), [8001.0]);
    }
}
