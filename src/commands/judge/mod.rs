//! `align judge`: programs as annotators of a labelling folder.
//!
//! The library `align_judgments` keeps the folder ([`JudgedFolder`]), words the questions and makes judgments
//! of the answers. Here are those who answer: a reward model ([`reward`]), a chat model ([`chat`]), and a
//! service ([`endpoint`]).

mod chat;
mod endpoint;
mod independence;
mod reward;
mod table;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use align_core::error::{Error, Problems};
use align_judgments::Item;
use align_judgments::judge::{JudgedFolder, Judging, annotator, items_of};
use align_judgments::judges::JudgeRecord;
use align_run::run::{Input, fingerprints};
use anyhow::Result;
use serde_json::{Value, json};

use self::chat::ChatJudge;
use self::endpoint::EndpointJudge;
use self::independence::{Policies, relations};
use self::reward::RewardJudge;
use self::table::Report;
use crate::cli::judge::JudgeArgs;
use crate::label;
use crate::output::say;
use crate::terminal::Terminal;

/// Items that are judged by a local model before their judgments are written.
const CHUNK: usize = 32;

/// Who judges, checked.
enum Judge {
    Reward(Box<RewardJudge>),
    Chat(ChatJudge),
    Endpoint(EndpointJudge),
}

/// Statistics of a run of a judge, besides its judgments.
#[derive(Default)]
struct JudgeStats {
    /// Of a chat model: the probability of A and B together, at the mean.
    letters: Option<f64>,
    /// Of a service: the number of requests, retries included.
    requests: Option<usize>,
    /// Of a service: the number of answers that were on the disk already.
    cached: Option<usize>,
    /// Of a service: the number of answers without a verdict.
    unparsed: Option<usize>,
}

/// Judges the items of a labelling folder.
pub(crate) fn run(args: JudgeArgs) -> Result<ExitCode> {
    let (items, judge, judging) = check(&args)?;
    let record = judging.record.clone();
    let annotator = judging.annotator.clone();
    let mut folder = JudgedFolder::open(&args.out, judging, items)?;
    let waiting = folder.waiting().len();
    say(&format!("{annotator}: {waiting} of {} items to be judged in {}", folder.items().len(), args.out.display()));
    let mut terminal = Terminal::new();
    let said = match (&judge, waiting) {
        (_, 0) => JudgeStats::default(),
        (Judge::Reward(judge), _) => judge.judge(&mut folder, args.dtype.into(), &mut terminal)?,
        (Judge::Chat(judge), _) => judge.judge(&mut folder, args.dtype.into(), &mut terminal)?,
        (Judge::Endpoint(judge), _) => judge.judge(&mut folder, &mut terminal)?,
    };
    Report::new(&annotator, &record, &folder, &said).print(&args)?;
    Ok(ExitCode::SUCCESS)
}

/// Checks everything but the folder; problems of all kinds are reported together.
fn check(args: &JudgeArgs) -> Result<(Vec<Item>, Judge, Judging)> {
    let mut problems = Problems::new();
    args.check(&mut problems);
    let items = problems.absorb(read(args))?;
    let policies = problems.absorb(Policies::new(args, items.as_deref().unwrap_or_default()))?;
    let name = args.default_name();
    let annotator = annotator(&name).map_err(|what| problems.push("--name", what)).ok();
    let to_check = items.as_deref().unwrap_or_default();
    let judge = match (&args.rm, &args.judge, &args.endpoint) {
        (Some(dir), ..) => {
            RewardJudge::check(dir, args, to_check, &mut problems)?.map(|judge| Judge::Reward(Box::new(judge)))
        }
        (_, Some(dir), _) => ChatJudge::check(dir, args, to_check, &mut problems)?.map(Judge::Chat),
        (.., Some(url)) => EndpointJudge::check(url, args, &mut problems)?.map(Judge::Endpoint),
        _ => None,
    };
    let checked = items.zip(policies).zip(judge).zip(annotator);
    let (((items, policies), judge), annotator) = problems.into_checked(checked)?;
    let record = record(args, &judge, &policies)?;
    let judging = Judging { annotator, record, limit: args.limit, seed: args.seed };
    Ok((items, judge, judging))
}

/// The items of the arguments, or of the folder.
fn read(args: &JudgeArgs) -> align_core::error::Result<Vec<Item>> {
    if let Some(items) = label::read(&args.given)? {
        return Ok(items);
    }
    if !args.out.exists() {
        let what = "does not exist, expected a labelling folder, or --items or --prompts for a new one";
        return Err(Error::invalid(args.out.display(), what));
    }
    items_of(&args.out)
}

/// What is kept of the judge.
fn record(args: &JudgeArgs, judge: &Judge, policies: &Policies) -> Result<JudgeRecord> {
    let (kind, model, mut identity) = match judge {
        Judge::Reward(judge) => ("rm", judge.dir().display().to_string(), judge.identity()),
        Judge::Chat(judge) => ("chat", judge.dir().display().to_string(), judge.identity()),
        Judge::Endpoint(judge) => ("endpoint", judge.model().to_owned(), judge.identity()),
    };
    let mut not_independent = BTreeMap::new();
    if let Some(dir) = args.rm.as_deref().or(args.judge.as_deref()) {
        let weights = contents(dir)?;
        not_independent = relations(kind, &weights, policies)?;
        identity.push(("files", json!(weights)));
        identity.push(("dtype", json!(format!("{:?}", args.dtype).to_lowercase())));
    }
    Ok(JudgeRecord {
        kind: kind.to_owned(),
        model,
        identity: identity.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
        not_independent,
    })
}

/// The length and hash of each file of a model, without their paths, which may change.
fn contents(dir: &Path) -> Result<Vec<String>> {
    let input = Input::new("model", align_model::read_files(dir)?);
    let found = fingerprints(&[input])?;
    Ok(independence::contents_of(&found["model"]))
}

impl JudgeArgs {
    fn check(&self, problems: &mut Problems) {
        for (flag, number) in [("--limit", self.limit), ("--parallel", self.parallel), ("--context", self.context)] {
            if number == Some(0) {
                problems.push(flag, "is 0, expected at least 1");
            }
        }
        // clap does not require an argument that is excluded by another one.
        let of_endpoint = [
            ("--model", self.model.is_some()),
            ("--key-file", self.key_file.is_some()),
            ("--parallel", self.parallel.is_some()),
            ("--cache", self.cache.is_some()),
        ];
        for (flag, _) in of_endpoint.iter().filter(|(_, is_given)| *is_given && self.endpoint.is_none()) {
            problems.push(flag, "is given without --endpoint, expected both or neither");
        }
        if self.context.is_some() && self.judge.is_none() {
            problems.push("--context", "is given without --judge, expected both or neither");
        }
        if self.tie_margin.is_some() && self.rm.is_none() {
            problems.push("--tie-margin", "is given without --rm, expected rewards that can differ by it");
        }
        if let Some(margin) = self.tie_margin.filter(|margin| !margin.is_finite() || *margin < 0.0) {
            problems.push("--tie-margin", format!("is {margin}, expected a number from 0"));
        }
    }

    /// The judge's name: as given, or that of its folder or model.
    fn default_name(&self) -> String {
        let of_folder = |dir: &Path| {
            let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
            // The result of a run is in its folder `model`.
            let named = if dir.file_name().is_some_and(|name| name == "model") { dir.parent() } else { None };
            let name = named.unwrap_or(&dir).file_name();
            name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
        };
        let local = self.rm.as_deref().or(self.judge.as_deref()).map(of_folder);
        self.name.clone().or(local).or(self.model.clone()).unwrap_or_default()
    }

    fn system(&self, default: &str) -> String {
        self.system.clone().unwrap_or_else(|| default.to_owned())
    }
}

/// A finding about a judge, in the words of the table and of `align compare`.
fn not_independent(annotator: &str, record: &JudgeRecord) -> Vec<String> {
    let related = record.not_independent.iter();
    related.map(|(model, why)| format!("{annotator} is not independent of {model}: {why}.")).collect()
}

/// As a pair of an object.
fn entry(key: &'static str, value: impl Into<Value>) -> (&'static str, Value) {
    (key, value.into())
}
