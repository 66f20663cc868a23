//! `align label`: a page on which people rank, score or compare responses.
//!
//! The library `align_judgments` decides who gets which item and keeps the judgments ([`Desk`]); here is what
//! answers browsers: the embedded pages ([`pages`]), their requests ([`api`]), and the refusal of requests
//! that come from other sites ([`origin`]). No model's name is ever sent.

mod api;
mod guideline;
mod origin;
mod pages;

use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use align_core::clock::unix_seconds;
use align_core::error::{Error, Problems, Result};
use align_judgments::assignment::Rules;
use align_judgments::desk::{Desk, Settings};
use align_judgments::items::{ModelResponses, items_from_responses};
use align_judgments::{Item, read_items};
use serde_json::Value;

use self::api::Service;
use self::origin::Hosts;
use crate::cli::label::{ItemsArgs, LabelServeArgs};
use crate::http::{Bound, Limits, Token, answer};
use crate::output::say;

/// The guideline if none is given.
const GUIDELINE: &str = include_str!("page/guideline.md");
/// Connections at once; a browser opens up to six.
const MAX_CLIENTS: usize = 1024;
/// The time for a request to arrive, and for an idle connection.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Answers requests until a signal asks it to stop.
pub(crate) fn serve(given: &ItemsArgs, args: LabelServeArgs) -> anyhow::Result<ExitCode> {
    let mut problems = Problems::new();
    args.check(&mut problems);
    let items = problems.absorb(read(given))?.map(|items| items.expect("clap requires them"));
    let guideline = problems.absorb(args.guideline.as_deref().map_or(Ok(GUIDELINE.to_owned()), text_of))?;
    let token = problems.absorb(args.token_file.as_deref().map(Token::read).transpose())?.flatten();
    let owner = problems.absorb(args.owner_token_file.as_deref().map(Token::read).transpose())?.flatten();
    let bound = Bound::new(&args.listen, args.token_file.as_deref(), &mut problems)?;
    let ((items, guideline), bound) = problems.into_checked(items.zip(guideline).zip(bound))?;
    let rules = Rules { ask: args.ask.into(), per_item: args.per_item, repeat_rate: args.repeat, seed: args.seed };
    let settings = Settings { rules, scale: args.scale };
    let desk = Desk::open(&args.out, settings, items, unix_seconds(SystemTime::now()))?;
    announce(&desk);

    let (owner, owner_link) = owner.map_or_else(new_token, |owner| (owner, "TOKEN".to_owned()));
    let guideline = guideline::tree(&guideline);
    let limits = Limits { clients: MAX_CLIENTS, timeout: TIMEOUT };
    let service = answer_with(bound, limits, &args, Parts { desk, token, owner, owner_link, guideline })?;
    let desk = service.desk();
    let progress = desk.assignment().progress("");
    say(&format!("stopped: {} of {} judgments in {}", progress.all, progress.wanted, args.out.display()));
    Ok(ExitCode::SUCCESS)
}

/// What a service is made of, but for its address.
struct Parts {
    desk: Desk,
    token: Option<Token>,
    owner: Token,
    /// The token in the printed link of the owner's page.
    owner_link: String,
    guideline: Vec<Value>,
}

fn answer_with(bound: Bound, limits: Limits, args: &LabelServeArgs, parts: Parts) -> anyhow::Result<Arc<Service>> {
    let mut started = None;
    answer(bound, limits, |address| {
        let link = if parts.token.is_some() { "#token=TOKEN" } else { "" };
        say(&format!("labelling at http://{address}/{link}"));
        say(&format!("the owner's page: http://{address}/owner#token={}", parts.owner_link));
        let service = Arc::new(Service {
            desk: Mutex::new(parts.desk),
            token: parts.token,
            owner: parts.owner,
            hosts: Hosts::new(address.port(), &args.listen, &args.host),
            guideline: parts.guideline,
            timeout: TIMEOUT,
        });
        started = Some(service.clone());
        Ok(api::router(service))
    })?;
    Ok(started.expect("it has started"))
}

/// A token for this start, and its text.
fn new_token() -> (Token, String) {
    let text: String = rand::random::<[u8; 16]>().iter().map(|byte| format!("{byte:02x}")).collect();
    (Token::of(text.as_bytes()), text)
}

fn announce(desk: &Desk) {
    let (assignment, count) = (desk.assignment(), desk.items().len());
    let (progress, rules) = (assignment.progress(""), &desk.settings().rules);
    say(&format!(
        "{count} items, {} judgments each: {} of {} are in {}",
        rules.per_item,
        progress.all,
        progress.wanted,
        desk.folder().display()
    ));
    let num_identical = assignment.num_not_asked();
    if num_identical > 0 {
        say(&format!("note: {num_identical} items are not shown: all their responses are identical, a tie"));
    }
}

/// The items of the arguments; `None` if there are none.
pub(crate) fn read(args: &ItemsArgs) -> Result<Option<Vec<Item>>> {
    match (&args.items, &args.prompts) {
        (Some(file), _) => read_items(file).map(Some),
        (None, Some(prompts)) => items_of_models(prompts, &args.responses).map(Some),
        (None, None) => Ok(None),
    }
}

/// The items of `--prompts` and `--responses`.
fn items_of_models(prompts: &Path, responses: &[String]) -> Result<Vec<Item>> {
    let (mut models, mut problems) = (Vec::new(), Problems::new());
    for given in responses {
        match given.split_once('=') {
            Some((name, file)) if !name.is_empty() && !file.is_empty() => {
                models.push(ModelResponses { name: name.to_owned(), file: file.into() });
            }
            _ => problems.push("--responses", format!("is `{given}`, expected NAME=FILE")),
        }
    }
    problems.into_result()?;
    items_from_responses(prompts, &models)
}

fn text_of(file: &Path) -> Result<String> {
    std::fs::read_to_string(file)
        .map_err(|error| Error::invalid(file.display(), format!("cannot be read ({error}), expected Markdown")))
}

impl LabelServeArgs {
    fn check(&self, problems: &mut Problems) {
        const MOST: usize = 1000;
        if !(2..=10).contains(&self.scale) {
            problems.push("--scale", format!("is {}, expected 2 to 10", self.scale));
        }
        if !(1..=MOST).contains(&self.per_item) {
            problems.push("--per-item", format!("is {}, expected 1 to {MOST}", self.per_item));
        }
        if !(0.0..=0.5).contains(&self.repeat) {
            problems.push("--repeat", format!("is {}, expected 0 to 0.5", self.repeat));
        }
    }
}
