//! The quickstart's small Figure 4: its models' responses to held-out prompts, judged by the gold score, as a
//! labelling folder, which `align compare` reads.

use std::path::Path;

use align_core::atomic_files::write_atomic;
use align_core::error::{Error, Result};
use align_datasets::world::{Ask, Question};
use align_judgments::judgment::{ITEMS, JUDGMENTS, PROGRAM_PREFIX};
use align_judgments::{Ask as Asked, Item, Judgment, Prompt};
use serde::Serialize;

use super::command::CommandLine;
use super::measure::{Measured, ScoredResponse};
use super::{COMPARED, RunCommand};
use crate::output::print_line;

/// The model that the others are compared with.
const BASELINE: &str = "sft";

/// Writes the folder, compares the models, and prints wins, ties and losses with the command that made them.
pub(super) fn show(out: &Path, measured: &Measured, run: RunCommand<'_>) -> anyhow::Result<()> {
    let folder = out.join("comparison");
    write(&folder, measured)?;
    print_line("\nAs the report's Figure 4: the responses to held-out prompts, judged by gold");
    let mut command = CommandLine::new("compare").word(&folder.display().to_string());
    command = command.flag("--baseline", BASELINE).word("--judges").word("--short");
    for picture in ["figure.svg", "figure.png"] {
        command = command.path("--figure", &folder.join(picture));
    }
    command.run(run)?;
    print_line(&format!("the figure: {}\n{command}", folder.join("figure.svg").display()));
    Ok(())
}

/// Writes items and judgments, unless the folder has these items: then people may have judged them, too.
fn write(folder: &Path, measured: &Measured) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let (mut items, mut judgments) = (Vec::new(), Vec::new());
    for (index, prompt) in measured.prompts.iter().enumerate() {
        let responses: Vec<&ScoredResponse> = COMPARED.iter().map(|model| &measured.responses[model][index]).collect();
        let item = item(prompt, &responses);
        judgments.push(judgment(&item, &responses));
        items.push(item);
    }
    let (items, path) = (lines(&items), folder.join(ITEMS));
    let is_kept = std::fs::read(&path).is_ok_and(|kept| kept == items.as_bytes()) && folder.join(JUDGMENTS).exists();
    if !is_kept {
        write_atomic(&path, items.as_bytes())?;
        write_atomic(&folder.join(JUDGMENTS), lines(&judgments).as_bytes())?;
    }
    Ok(())
}

fn item(prompt: &str, responses: &[&ScoredResponse]) -> Item {
    let category = Question::parse(prompt).map(|question| match question.ask {
        Ask::Capital(_) | Ask::Continent(_) | Ask::Colour(_) | Ask::Legs(_) => "facts",
        Ask::Sum(..) => "sums",
        Ask::Belonging(..) => "belongings",
    });
    let mut item = Item {
        id: String::new(),
        prompt: Prompt::Text(prompt.to_owned()),
        responses: responses.iter().map(|response| response.text.clone()).collect(),
        models: Some(COMPARED.map(str::to_owned).into()),
        category: category.map(str::to_owned),
        tags: Vec::new(),
        gold: None,
    };
    item.id = item.hash();
    item
}

fn judgment(item: &Item, responses: &[&ScoredResponse]) -> Judgment {
    Judgment {
        scores: Some(responses.iter().map(|response| response.gold.total()).collect()),
        ..Judgment::empty(&item.id, &format!("{PROGRAM_PREFIX}gold"), Asked::Score)
    }
}

fn lines<T: Serialize>(rows: &[T]) -> String {
    rows.iter().map(|row| serde_json::to_string(row).expect("plain data") + "\n").collect()
}
