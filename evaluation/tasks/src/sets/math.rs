//! MATH: competition problems.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use align_core::error::{Error, Problem, Problems, Result};
use serde::Deserialize;

use super::{LM_EVAL_MAX_TOKENS, MAX_TOKENS};
use crate::equality::Equality;
use crate::extract::{Extractor, boxed, normalize};
use crate::files;
use crate::judge::{Comparison, Judge};
use crate::prompt::{Parts, SYSTEM, Shot};
use crate::request::{Preset, Request, Style};
use crate::task::{Ask, Average, Item, Subject, Task};

const FILES: [&str; 4] = ["test.jsonl", "math_test.jsonl", "math_test.json", "test.json"];
/// The seven types: folders in the published archive, and as rows name them.
const TYPES: [(&str, &str); 7] = [
    ("algebra", "Algebra"),
    ("counting_and_probability", "Counting & Probability"),
    ("geometry", "Geometry"),
    ("intermediate_algebra", "Intermediate Algebra"),
    ("number_theory", "Number Theory"),
    ("prealgebra", "Prealgebra"),
    ("precalculus", "Precalculus"),
];

#[derive(Debug, Clone, Deserialize)]
struct Exercise {
    problem: String,
    solution: String,
    #[serde(rename = "type", alias = "subject")]
    kind: String,
}

#[derive(Debug, Deserialize)]
struct Example {
    problem: String,
    solution: String,
}

/// Four worked examples; `source` in the file says whose they are.
#[derive(Debug, Deserialize)]
struct Examples {
    shots: Vec<Example>,
}

static EXAMPLES: LazyLock<Vec<Example>> = LazyLock::new(|| {
    let examples: Examples =
        serde_json::from_str(include_str!("../../data/minerva_shots.json")).expect("a file of our own");
    examples.shots
});

/// Loads MATH: the archive's folders, or one file of rows.
pub(crate) fn load(request: &Request<'_>) -> Result<Task> {
    let shots = request.num_shots_of(4, EXAMPLES.len())?;
    let subjects = match archive(request.data()?) {
        Some(folder) => from_archive(&folder)?,
        None => from_rows(&files::file(request.data()?, "math", &FILES)?)?,
    };
    let asked = |problem: &str| format!("Problem:\n{problem}\n\nSolution:");
    let examples: Vec<Shot> = EXAMPLES[..shots]
        .iter()
        .map(|example| Shot { question: asked(&example.problem), answer: example.solution.clone() })
        .collect();
    let item = |name: &str, exercise: Numbered| {
        let question = asked(&exercise.problem);
        let parts = |heading| Parts { heading, shots: &examples, question: &question };
        let prompt = match (request.style, request.preset) {
            (Style::Base, _) => parts("").text(" ", "\n\n"),
            (Style::Chat, Preset::LmEval) => parts("").turns(""),
            (Style::Chat, Preset::Qwen) => parts(SYSTEM).turns(""),
        };
        let (metric, extractor, max_tokens) = match request.preset {
            Preset::LmEval => ("exact_match", Extractor::FinalAnswer, LM_EVAL_MAX_TOKENS),
            Preset::Qwen => ("acc", Extractor::Boxed, MAX_TOKENS),
        };
        let comparison =
            Comparison { metric: metric.to_owned(), extractor, gold: exercise.gold, equality: Equality::Value };
        Item {
            id: format!("{name}/{}", exercise.number),
            prompt,
            ask: Ask::Generate { stops: vec!["Problem:".to_owned()], max_tokens },
            judge: Judge::Text(vec![comparison]),
        }
    };
    let subjects = subjects.into_iter().map(|(name, exercises)| Subject {
        items: exercises.into_iter().map(|exercise| item(name, exercise)).collect(),
        name: name.to_owned(),
    });
    let metric = if request.preset == Preset::LmEval { "exact_match" } else { "acc" };
    Ok(Task {
        name: request.name.to_owned(),
        shots,
        subjects: subjects.collect(),
        metrics: vec![metric.to_owned()],
        average: Average::Micro,
        categories: Vec::new(),
    })
}

/// A problem with its number in its file or folder, and its answer in normal form.
struct Numbered {
    number: usize,
    problem: String,
    gold: String,
}

type Subjects = Vec<(&'static str, Vec<Numbered>)>;

/// The answer in the solution's last box.
fn gold(exercise: &Exercise) -> std::result::Result<String, String> {
    let gold = boxed(&exercise.solution).map(normalize).unwrap_or_default();
    if gold.is_empty() { Err("the solution has no \\boxed answer, expected one".to_owned()) } else { Ok(gold) }
}

fn archive(data: &Path) -> Option<PathBuf> {
    let folders = [data.join("math"), data.join("math/MATH"), data.join("MATH"), data.to_owned()];
    folders.into_iter().map(|folder| folder.join("test")).find(|folder| folder.join(TYPES[0].0).is_dir())
}

/// `test/algebra/1.json` and so on: all seven types.
fn from_archive(folder: &Path) -> Result<Subjects> {
    let (mut subjects, mut problems) = (Vec::new(), Problems::new());
    for (name, kind) in TYPES {
        let folder = folder.join(name);
        let Ok(entries) = std::fs::read_dir(&folder) else {
            problems.push(folder.display(), format!("is missing, expected the folder with the problems of {kind}"));
            continue;
        };
        let mut files = BTreeMap::new();
        for entry in entries {
            let path = entry.map_err(Error::io(&folder))?.path();
            let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<usize>().ok());
            match number {
                Some(number) if path.extension().is_some_and(|extension| extension == "json") => {
                    files.insert(number, path);
                }
                _ => problems.push(path.display(), "is not a problem, expected NUMBER.json alone in this folder"),
            }
        }
        let mut exercises = Vec::with_capacity(files.len());
        for (number, path) in files {
            let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
            let read = serde_json::from_str::<Exercise>(&text).map_err(|error| error.to_string());
            match read.and_then(|exercise| Ok((gold(&exercise)?, exercise))) {
                Ok((gold, exercise)) => exercises.push(Numbered { number, problem: exercise.problem, gold }),
                Err(what) => problems.push_problem(Problem::of_row(path.display(), what)),
            }
        }
        if exercises.is_empty() && problems.is_empty() {
            problems.push(folder.display(), "has no problems, expected NUMBER.json");
        }
        subjects.push((name, exercises));
    }
    problems.into_result()?;
    Ok(subjects)
}

/// Rows with problem, solution and type: the whole test split, or a selection such as the 500 problems of
/// Lightman et al. 2023. Its subjects are the types that occur.
fn from_rows(file: &Path) -> Result<Subjects> {
    let mut subjects: Subjects = TYPES.iter().map(|(name, _)| (*name, Vec::new())).collect();
    let mut problems = Problems::new();
    for row in files::rows::<Exercise>(file)? {
        let exercise = row.value;
        let Some(kind) = TYPES.iter().position(|(name, kind)| [*name, *kind].contains(&exercise.kind.as_str())) else {
            let what = format!("has the type `{}`, expected one of MATH's seven, such as Algebra", exercise.kind);
            problems.push_problem(Problem::of_row(&row.location, what));
            continue;
        };
        match gold(&exercise) {
            Ok(gold) => subjects[kind].1.push(Numbered { number: row.index, problem: exercise.problem, gold }),
            Err(what) => problems.push_problem(Problem::of_row(&row.location, what)),
        }
    }
    problems.into_result()?;
    subjects.retain(|(_, exercises)| !exercises.is_empty());
    Ok(subjects)
}
