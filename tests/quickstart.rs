//! `align quickstart` with its stages cut short: what it prints follows from its files, and its commands can
//! be repeated.

use std::collections::HashMap;

use serde_json::Value;

use crate::util::Folder;

const MODELS: [&str; 3] = ["pretrain", "sft", "ppo"];

#[test]
fn the_numbers_follow_from_the_files() {
    let folder = Folder::empty();
    let quickstart = ["quickstart", "--out", "q", "--seed", "3", "--steps", "40"];
    let shown = folder.succeed(&quickstart).stdout;
    // The last table is wider: `align compare` fits its tables to the terminal.
    let narrow = shown.split("As the report's Figure 4").next().unwrap();
    assert!(narrow.lines().all(|line| line.chars().count() <= 80), "wider than a terminal:\n{shown}");
    for task in ["facts", "answers", "manners"] {
        assert_results(&folder, task, &shown);
    }
    assert_outcomes(&folder, &shown);

    let commands = commands(&shown);
    assert_eq!(commands.len(), 2, "{shown}");
    for command in &commands {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let repeated = folder.succeed(&words).stdout;
        assert!(shown.contains(repeated.trim_end()), "{words:?}\n{repeated}\n{shown}");
    }

    // The same command again changes nothing, also when somebody has judged the responses since.
    let item = folder.rows("q/comparison/items.jsonl")[0]["id"].clone();
    let judgments = folder.read("q/comparison/judgments.jsonl");
    let of_ann = format!("{judgments}{{\"item\":{item},\"annotator\":\"ann\",\"ask\":\"rank\",\"ranks\":[3,2,1]}}\n");
    folder.write("q/comparison/judgments.jsonl", &of_ann);
    assert_eq!(folder.succeed(&quickstart).stdout, shown);
    assert_eq!(folder.read("q/comparison/judgments.jsonl"), of_ann);
}

/// The commands among the lines, without the program's name.
fn commands(shown: &str) -> Vec<Vec<String>> {
    let joined = shown.replace("\\\n", " ");
    let lines = joined.lines().filter_map(|line| line.strip_prefix("  align "));
    lines.map(|line| line.split_whitespace().map(|word| word.replace("''", "")).collect()).collect()
}

/// Judges every record again; the means and Wilson's intervals are those of the table.
fn assert_results(folder: &Folder, task: &str, shown: &str) {
    let questions = folder.rows(&format!("q/tasks/{task}.jsonl"));
    let answers: HashMap<&str, &str> =
        questions.iter().map(|row| (row["question"].as_str().unwrap(), row["answer"].as_str().unwrap())).collect();
    let mut means = Vec::new();
    for (index, model) in MODELS.iter().enumerate() {
        let records = folder.rows(&format!("q/tasks/results/model-{}/{task}.jsonl", index + 1));
        assert_eq!(records.len(), answers.len(), "{task}");
        let right = records.iter().filter(|record| {
            let turn = record["prompt"].as_str().unwrap().split("<|im_start|>user\n").nth(1).unwrap();
            let answer = answers[turn.split("<|im_end|>").next().unwrap()];
            let given = record["response"].as_str().map_or_else(|| Some(most_probable(record)), spoken);
            given.as_deref() == Some(answer)
        });
        let (count, right) = (records.len() as f64, right.count() as f64);
        let (share, z) = (right / count, 1.959_963_984_540_054_f64);
        let center = (right + z * z / 2.0) / (count + z * z);
        let half = z * (count * share * (1.0 - share) + z * z / 4.0).sqrt() / (count + z * z);
        let cell = [share, center - half, center + half].map(|number| format!("{:.1}", 100.0 * number.abs()));
        let cell = format!("{} [{}, {}]", cell[0], cell[1], cell[2]);
        let row = shown.lines().find(|line| line.starts_with(&format!(" {model} ")) && line.contains('['));
        assert!(row.is_some_and(|row| row.contains(&cell)), "{model}, {task}: {cell}\n{shown}");
        means.push(share);
    }
    // What the models answer differs even if they are hardly trained.
    assert!(task != "answers" || means[1] > means[0], "{task}: {means:?}");
}

fn most_probable(record: &Value) -> String {
    let logprob = |choice: &&Value| choice["logprob"].as_f64().unwrap();
    let best = record["response"].as_array().unwrap().iter().max_by(|a, b| logprob(a).total_cmp(&logprob(b)));
    best.unwrap()["text"].as_str().unwrap().to_owned()
}

/// The first sum or colour that a text states.
fn spoken(text: &str) -> Option<String> {
    let words: Vec<&str> = text.split(' ').collect();
    let english = words.windows(4).find_map(|words| {
        let is_frame = words[2] == "is" && (words[0] == "plus" && words[1].len() == 1 || words[0].ends_with("your"));
        let answer = words[3].split(|letter: char| !letter.is_alphanumeric()).next().unwrap();
        (is_frame && !answer.is_empty()).then(|| answer.to_owned())
    });
    let number = || {
        let digits: String = text.split_once("等于")?.1.chars().take_while(char::is_ascii_digit).collect();
        (!digits.is_empty()).then_some(digits)
    };
    let colour = || {
        let (before, _) = text.split_once("色的")?;
        let mut last = before.chars().rev();
        let colour = last.next()?;
        (last.next()? == '是').then(|| colour.to_string())
    };
    english.or_else(number).or_else(colour)
}

/// Counts wins, ties and losses in the judgments; table and figure have the same shares.
fn assert_outcomes(folder: &Folder, shown: &str) {
    let items = folder.rows("q/comparison/items.jsonl");
    let judgments = folder.rows("q/comparison/judgments.jsonl");
    assert_eq!((items.len(), judgments.len()), (1280, 1280));
    for (item, judgment) in items.iter().zip(&judgments) {
        assert_eq!((&judgment["item"], judgment["annotator"].as_str()), (&item["id"], Some("judge:gold")));
        for (response, score) in
            item["responses"].as_array().unwrap().iter().zip(judgment["scores"].as_array().unwrap())
        {
            let points = |ended| {
                align_datasets::gold(item["prompt"].as_str().unwrap(), response.as_str().unwrap(), ended).total()
            };
            assert!([points(true), points(false)].contains(&score.as_f64().unwrap()), "{response}: {score}");
        }
    }
    let svg = folder.read("q/comparison/figure.svg");
    assert!(std::fs::read(folder.join("q/comparison/figure.png")).unwrap().starts_with(b"\x89PNG"));
    for (index, model) in MODELS.iter().enumerate().filter(|(_, model)| **model != "sft") {
        let differences = judgments.iter().map(|judgment| {
            let score = |index: usize| judgment["scores"][index].as_f64().unwrap();
            score(index) - score(1)
        });
        let differences: Vec<f64> = differences.collect();
        let share = |is: fn(f64) -> bool| differences.iter().filter(|points| is(**points)).count() as f64 / 1280.0;
        let shares = [share(|points| points > 0.0), share(|points| points == 0.0), share(|points| points < 0.0)];
        let cells = shares.map(|share| format!("{:.1} %", 100.0 * share));
        let row = shown.lines().find(|line| line.starts_with(&format!("{model} ")) && line.matches('%').count() == 3);
        let row = row.unwrap_or_else(|| panic!("{model}\n{shown}"));
        let found: Vec<String> =
            row.split('%').take(3).map(|cell| cell.trim().rsplit(' ').next().unwrap().to_owned() + " %").collect();
        assert_eq!(found, cells, "{row}");
        let bar = bars(&svg)
            .into_iter()
            .find(|bar| bar.iter().zip(shares).all(|(height, share)| (height - share).abs() < 0.006));
        assert!(bar.is_some(), "{model}: {shares:?}, the figure has {:?}", bars(&svg));
    }
}

/// The shares of the figure's bars from bottom to top: (wins, ties, losses) of each model.
fn bars(svg: &str) -> Vec<[f64; 3]> {
    let number = |line: &str, key: &str| -> f64 {
        line.split_once(&format!(" {key}=\"")).unwrap().1.split_once('"').unwrap().0.parse().unwrap()
    };
    let of_colour = |colour: &str| -> Vec<f64> {
        let rectangles = svg.lines().filter(|line| line.starts_with("<rect") && line.contains(colour));
        // The legend's are small squares.
        rectangles.filter(|line| number(line, "width") > 20.0).map(|line| number(line, "height")).collect()
    };
    let [wins, ties, losses] = ["#2563EB", "#CBD5E1", "#945454"].map(of_colour);
    let bar = |at: usize| {
        let total = wins[at] + ties[at] + losses[at];
        [wins[at] / total, ties[at] / total, losses[at] / total]
    };
    (0..wins.len()).map(bar).collect()
}
