//! `align serve rm`: serves a reward model's scores over HTTP.
//!
//! One thread owns the model ([`model`]); connections (`crate::http`) and requests ([`requests`]) run on
//! tokio. A bounded queue connects them. No text of a request is stored or logged.

mod model;
mod requests;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use align_core::config::Dtype;
use align_core::error::Problems;
use align_model::{ScalarModel, require_finite};
use align_train::stage::{Scorer, check_reward_model, evaluation_options};

use self::requests::{Counts, Service, router};
use crate::cli::ServeRmArgs;
use crate::http::{Bound, Limits, Token, answer};
use crate::output::say;
use crate::terminal::report_assumed;

/// Answers requests until a signal asks it to stop.
pub(crate) fn rm(args: ServeRmArgs) -> anyhow::Result<ExitCode> {
    let mut problems = Problems::new();
    args.check(&mut problems);
    let token = problems.absorb(args.token_file.as_deref().map(Token::read).transpose())?.flatten();
    let scorer = check_reward_model(&args.model, &args.reading.score_options(), &mut problems)?;
    // The address is bound before the model loads, but requests are answered only afterwards.
    let bound = Bound::new(&args.listen, args.token_file.as_deref(), &mut problems)?;
    let (Scorer { format, assumed, .. }, bound) = problems.into_checked(scorer.zip(bound))?;
    report_assumed(&args.model, assumed.as_deref());

    let dir = args.model.clone();
    let load = move || {
        let mut model = ScalarModel::load(&dir, &evaluation_options(Dtype::Float32), 0)?;
        require_finite(&dir, model.parameters())?;
        model.extrapolate();
        Ok(model)
    };
    let (jobs, thread) = model::start(load, args.queue)?;
    let timeout = Duration::from_secs(args.timeout_seconds);
    let service = Arc::new(Service {
        model: args.model.display().to_string(),
        format,
        token,
        jobs,
        max_body_bytes: args.max_body_bytes,
        max_tokens: args.max_tokens,
        timeout,
        counts: Counts::default(),
    });
    let limits = Limits { clients: args.max_clients, timeout };
    answer(bound, limits, |address| {
        say(&format!("listening at http://{address}, model {}", args.model.display()));
        Ok(router(service.clone()))
    })?;
    let counts = service.counts.to_string();
    drop(service);
    // All senders are dropped, so the model's thread ends.
    let _ = thread.join();
    say(&counts);
    Ok(ExitCode::SUCCESS)
}

impl ServeRmArgs {
    fn check(&self, problems: &mut Problems) {
        /// More than any machine supports; the queue's own limit is far above.
        const MOST: u64 = 1 << 20;
        const DAY: u64 = 24 * 60 * 60;
        let numbers = [
            ("--max-body-bytes", self.max_body_bytes as u64, 1 << 30),
            ("--max-tokens", self.max_tokens as u64, MOST),
            ("--max-clients", self.max_clients as u64, MOST),
            ("--queue", self.queue as u64, MOST),
            ("--timeout-seconds", self.timeout_seconds, DAY),
        ];
        for (flag, value, most) in numbers {
            if !(1..=most).contains(&value) {
                problems.push(flag, format!("is {value}, expected 1 to {most}"));
            }
        }
    }
}
