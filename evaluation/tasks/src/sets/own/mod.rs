//! A user's own task: one TOML file ([`definition`]) and a file of rows.

mod definition;

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use align_core::error::{Error, Problem, Problems, Result};
use minijinja::{Environment, UndefinedBehavior};
use serde_json::Value;

use self::definition::{Choices, Definition, GoldForm};
use super::first_shots;
use crate::files::{self, Row};
use crate::judge::{ChoiceMetric, Comparison, Judge, Program};
use crate::prompt::{Parts, Shot};
use crate::request::{Request, Style};
use crate::task::{Ask, Category, Item, Subject, Task};

/// Loads the task that a TOML file defines. Paths in it are relative to its folder.
pub(crate) fn load(request: &Request<'_>) -> Result<Task> {
    let file = Path::new(request.name);
    let definition = Definition::read(file)?;
    let folder = file.parent().unwrap_or(Path::new(""));
    let templates = Templates::new(file, &definition)?;
    let num_shots = request.num_shots(definition.shots);
    let mut problems = Problems::new();
    let rows = problems.absorb(rows(&folder.join(&definition.data)))?;
    let shots = problems.absorb(shots(file, folder, &definition, &templates, num_shots))?;
    let (rows, shots) = problems.into_checked(rows.zip(shots))?;

    let name = definition.name(file);
    let (mut subjects, mut problems): (Vec<Subject>, Problems) = (Vec::new(), Problems::new());
    let (mut index_of, mut ids) = (HashMap::new(), BTreeSet::new());
    for row in &rows {
        let item = match item(&definition, &templates, &shots, row, &name, request.style) {
            Ok(item) => item,
            Err(what) => {
                problems.push_problem(Problem::of_row(&row.location, what));
                continue;
            }
        };
        let (subject, item) = item;
        if !ids.insert(item.id.clone()) {
            let what = format!("has the id `{}` of an earlier row, expected every id once", item.id);
            problems.push_problem(Problem::of_row(&row.location, what));
        }
        let index = *index_of.entry(subject.clone()).or_insert_with(|| {
            subjects.push(Subject { name: subject, items: Vec::new() });
            subjects.len() - 1
        });
        subjects[index].items.push(item);
    }
    let categories = categories(file, &definition, &subjects, &mut problems);
    problems.into_result()?;
    Ok(Task {
        name,
        shots: num_shots,
        subjects,
        metrics: definition.metrics(),
        average: definition.average.into(),
        categories,
    })
}

fn rows(file: &Path) -> Result<Vec<Row<Value>>> {
    let rows: Vec<Row<Value>> = files::rows(file)?;
    let mut problems = Problems::new();
    for row in rows.iter().filter(|row| !row.value.is_object()) {
        problems.push_problem(Problem::of_row(&row.location, "is not an object, expected columns with names"));
    }
    problems.into_result()?;
    Ok(rows)
}

fn shots(
    file: &Path,
    folder: &Path,
    definition: &Definition,
    templates: &Templates<'_>,
    num: usize,
) -> Result<Vec<Shot>> {
    if num == 0 {
        return Ok(Vec::new());
    }
    let Some(shots_file) = &definition.shots_file else {
        let what = format!("has no shots_file, expected one: it is asked for {num} worked examples");
        return Err(Error::invalid(file.display(), what));
    };
    let path = folder.join(shots_file);
    let rows = first_shots(&path, rows(&path)?, num)?;
    let (mut shots, mut problems) = (Vec::new(), Problems::new());
    for row in rows {
        let shot = templates.render(&templates.template, &row.value).and_then(|question| {
            let answer = match templates.choices(&definition.choices, &row.value)? {
                Some(choices) => choices[templates.gold(definition, &choices, &row.value)?].clone(),
                None => templates.render(&templates.answer, &row.value)?,
            };
            Ok(Shot { question, answer })
        });
        match shot {
            Ok(shot) => shots.push(shot),
            Err(what) => problems.push_problem(Problem::of_row(&row.location, what)),
        }
    }
    problems.into_result()?;
    Ok(shots)
}

/// A row's subject and question.
fn item(
    definition: &Definition,
    templates: &Templates<'_>,
    shots: &[Shot],
    row: &Row<Value>,
    name: &str,
    style: Style,
) -> std::result::Result<(String, Item), String> {
    let value = &row.value;
    let rendered = |template: &Option<String>| template.as_ref().map(|text| templates.render(text, value)).transpose();
    let subject = rendered(&templates.subject)?.unwrap_or_else(|| name.to_owned());
    let id = rendered(&templates.id)?.unwrap_or_else(|| format!("{subject}/{}", row.index));
    let question = templates.render(&templates.template, value)?;
    let parts = Parts { heading: &definition.system, shots, question: &question };
    let prompt = match style {
        Style::Base => parts.text(&definition.delimiter, &definition.separator),
        Style::Chat => parts.turns(&definition.prefix),
    };
    let delimiter = if style == Style::Base { definition.delimiter.as_str() } else { "" };
    let generate = Ask::Generate { stops: definition.stops.clone(), max_tokens: definition.max_tokens };
    let (ask, judge) = match (templates.choices(&definition.choices, value)?, &definition.program) {
        (Some(labels), _) => {
            let gold = templates.gold(definition, &labels, value)?;
            let continuations = labels.iter().map(|label| format!("{delimiter}{label}")).collect();
            let metrics = vec![ChoiceMetric::Acc, ChoiceMetric::AccNorm];
            (Ask::Choose(continuations), Judge::Choice { labels, gold, metrics })
        }
        (None, Some(program)) => {
            let judge = Judge::Program(Program {
                extractor: program.code.into(),
                before: templates.render(&program.before, value)?,
                after: templates.render(&program.after, value)?,
                seconds: program.seconds,
            });
            (generate, judge)
        }
        (None, None) => {
            let comparison = Comparison {
                metric: definition.metric.name().to_owned(),
                extractor: definition.extractor()?,
                gold: templates.render(&templates.answer, value)?,
                equality: definition.equality(),
            };
            (generate, Judge::Text(vec![comparison]))
        }
    };
    Ok((subject, Item { id, prompt, ask, judge }))
}

fn categories(file: &Path, definition: &Definition, subjects: &[Subject], problems: &mut Problems) -> Vec<Category> {
    let mut categories = Vec::new();
    for (name, members) in &definition.categories {
        for member in members {
            if !subjects.iter().any(|subject| subject.name == *member) {
                let what = format!("has no rows of the subject `{member}`, expected some");
                problems.push(format!("{}: categories.{name}", file.display()), what);
            }
        }
        categories.push(Category { name: name.clone(), subjects: members.clone() });
    }
    categories
}

/// The definition's templates, which have been compiled once.
struct Templates<'a> {
    environment: Environment<'a>,
    template: String,
    answer: String,
    subject: Option<String>,
    id: Option<String>,
}

impl<'a> Templates<'a> {
    fn new(file: &Path, definition: &Definition) -> Result<Self> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_keep_trailing_newline(true);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        let mut problems = Problems::new();
        let mut texts = vec![("template", &definition.template), ("answer", &definition.answer)];
        texts.extend(definition.subject.iter().map(|text| ("subject", text)));
        texts.extend(definition.id.iter().map(|text| ("id", text)));
        texts.extend(
            definition.program.iter().flat_map(|program| [("before", &program.before), ("after", &program.after)]),
        );
        if let Some(Choices::Templates(choices)) = &definition.choices {
            texts.extend(choices.iter().map(|text| ("choices", text)));
        }
        for (key, text) in texts {
            if let Err(error) = environment.add_template_owned(text.clone(), text.clone()) {
                problems.push(format!("{}: {key}", file.display()), format!("is not a template: {error}"));
            }
        }
        problems.into_result()?;
        Ok(Self {
            environment,
            template: definition.template.clone(),
            answer: definition.answer.clone(),
            subject: definition.subject.clone(),
            id: definition.id.clone(),
        })
    }

    fn render(&self, template: &str, row: &Value) -> std::result::Result<String, String> {
        let rendered = self.environment.get_template(template).and_then(|template| template.render(row));
        rendered
            .map_err(|error| format!("`{template}` cannot be filled in: {error}; expected its columns in every row"))
    }

    /// The texts of the choices.
    fn choices(&self, choices: &Option<Choices>, row: &Value) -> std::result::Result<Option<Vec<String>>, String> {
        let labels = match choices {
            None => return Ok(None),
            Some(Choices::Templates(templates)) => templates
                .iter()
                .map(|template| self.render(template, row))
                .collect::<std::result::Result<Vec<_>, _>>()?,
            Some(Choices::Column(column)) => {
                let texts = row.get(column).and_then(Value::as_array).and_then(|values| {
                    values.iter().map(|value| value.as_str().map(str::to_owned)).collect::<Option<Vec<String>>>()
                });
                texts.ok_or_else(|| format!("`{column}` is not an array of texts, expected the choices"))?
            }
        };
        if labels.len() < 2 || labels.iter().any(String::is_empty) {
            return Err("has fewer than two choices, or an empty one; expected texts".to_owned());
        }
        Ok(Some(labels))
    }

    /// The index of the right choice.
    fn gold(&self, definition: &Definition, labels: &[String], row: &Value) -> std::result::Result<usize, String> {
        let answer = self.render(&self.answer, row)?;
        let answer = answer.trim();
        let index = match definition.answer_is {
            GoldForm::Text => labels.iter().position(|label| label.trim() == answer),
            GoldForm::Index => answer.parse().ok(),
            GoldForm::Letter => match answer.as_bytes() {
                [letter] if letter.is_ascii_uppercase() => Some(usize::from(letter - b'A')),
                _ => None,
            },
        };
        let form = definition.answer_is.described();
        index
            .filter(|index| *index < labels.len())
            .ok_or_else(|| format!("the answer is `{answer}`, expected {form} of {} choices", labels.len()))
    }
}
