//! MMLU, C-Eval and CMMLU.

use tempfile::TempDir;

use super::*;
use crate::subjects::{CEVAL, CMMLU, MMLU};
use crate::task::{Ask, Average, Continuation};

fn mmlu() -> TempDir {
    let data = tempfile::tempdir().unwrap();
    for name in MMLU.names {
        let rows =
            |num| (0..num).map(|row| format!(" 1+{row}?,{row},{},\"3, or 4\",5,B\n", row + 1)).collect::<String>();
        write(data.path(), &format!("mmlu/dev/{}_dev.csv", name.file), &rows(2));
        write(data.path(), &format!("mmlu/test/{}_test.csv", name.file), &rows(3));
    }
    data
}

#[test]
fn mmlu_in_both_presets() {
    let data = mmlu();
    let task = load(&request("mmlu", &data, Preset::LmEval, Style::Base, 1)).unwrap();
    assert_eq!((task.subjects.len(), task.categories.len(), task.average), (57, 4, Average::Micro));
    let first = item(&task, "us_foreign_policy/2");
    let expected = "The following are multiple choice questions (with answers) about us foreign policy.\n\n\
        1+0?\nA. 0\nB. 1\nC. 3, or 4\nD. 5\nAnswer: B\n\n1+2?\nA. 2\nB. 3\nC. 3, or 4\nD. 5\nAnswer:";
    assert_eq!(text(first), expected);
    assert_eq!(first.ask, Ask::Choose([" A", " B", " C", " D"].map(str::to_owned).to_vec()));
    let chances = [-2.0, -1.0, -3.0, -4.0].map(|logprob| Continuation { logprob, is_greedy: false });
    let Verdict::Scored(scored) = first.judge.verdict(&Answer::Choice(chances.to_vec())) else { panic!("scored") };
    assert_eq!((scored.answer.as_deref(), scored.metrics["acc"]), (Some("B"), 1.0));

    let task = load(&request("mmlu", &data, Preset::LmEval, Style::Chat, 1)).unwrap();
    let first = item(&task, "anatomy/0");
    let question = "1+0?\nA. 0\nB. 1\nC. 3, or 4\nD. 5\nAnswer:";
    let expected = [
        "system: The following are multiple choice questions (with answers) about anatomy.\n\n".to_owned(),
        format!("user: {question}"),
        "assistant: B".to_owned(),
        format!("user: {question}"),
        "… ".to_owned(),
    ];
    assert_eq!(turns(first), expected);
    assert_eq!(first.ask, Ask::Choose(["A", "B", "C", "D"].map(str::to_owned).to_vec()));

    let task = load(&request("mmlu", &data, Preset::Qwen, Style::Base, 1)).unwrap();
    let expected = "The following are multiple choice questions (with answers) about anatomy.\n\n\
        Question:  1+0?\nA. 0\nB. 1\nC. 3, or 4\nD. 5\nAnswer: B\n\nQuestion:  1+1?\nA. 1\nB. 2\nC. 3, or 4\nD. 5\nAnswer:";
    assert_eq!(text(item(&task, "anatomy/1")), expected);
    let task = load(&request("mmlu", &data, Preset::Qwen, Style::Chat, 0)).unwrap();
    let first = item(&task, "anatomy/0");
    assert_eq!(turns(first)[0], "system: You are a helpful assistant.");
    assert!(turns(first)[1].ends_with("to this question.\n\n 1+0?\nA. 0\nB. 1\nC. 3, or 4\nD. 5\n"));
    assert_eq!((metric(first, "The answer is 3, or 4."), metric(first, "It is B")), (0.0, 1.0));
}

#[test]
fn parts_of_mmlu_are_named() {
    let data = mmlu();
    let task = load(&request("mmlu/stem+virology", &data, Preset::Qwen, Style::Base, 0)).unwrap();
    assert_eq!((task.subjects.len(), task.categories.len()), (20, 1));
    assert_eq!((task.categories[0].name.as_str(), task.name.as_str()), ("STEM", "mmlu/stem+virology"));
    let message = error(&request("mmlu/stem+botany", &data, Preset::Qwen, Style::Base, 0));
    assert!(
        message.contains("has no part `botany`, expected STEM, Social Sciences, Humanities, Others, or "),
        "{message}"
    );
}

#[test]
fn what_is_missing_or_malformed_is_an_error() {
    let data = mmlu();
    let asked = request("mmlu", &data, Preset::Qwen, Style::Base, 2);
    std::fs::remove_file(data.path().join("mmlu/test/virology_test.csv")).unwrap();
    write(data.path(), "mmlu/dev/anatomy_dev.csv", "q,1,2,3,4,A\n");
    write(data.path(), "mmlu/test/astronomy_test.csv", "q,1,2,3,4,E\n ,1,2,3,4,A\nq,1\n");
    let message = error(&asked);
    for part in [
        "virology_test.csv: cannot be read: ",
        "anatomy_dev.csv: has 1 rows, expected at least 2, one for each worked example",
        "astronomy_test.csv:3: has 2 fields, expected 6",
    ] {
        assert!(message.contains(part), "{message}");
    }
    write(data.path(), "mmlu/test/astronomy_test.csv", "q,1,2,3,4,E\n ,1,2,3,4,A\n");
    let message = error(&asked);
    for part in [
        "astronomy_test.csv:1: the answer is `E`, expected A, B, C or D",
        "astronomy_test.csv:2: the question is empty",
    ] {
        assert!(message.contains(part), "{message}");
    }
    let empty = tempfile::tempdir().unwrap();
    let message = error(&request("cmmlu", &empty, Preset::Qwen, Style::Base, 2));
    assert!(message.contains("has no test/agronomy.csv, expected cmmlu's files in "), "{message}");
    let message = error(&request("mmmlu", &empty, Preset::Qwen, Style::Base, 2));
    assert!(message.contains("is not a benchmark, expected one of mmlu, ceval"), "{message}");
}

#[test]
fn ceval_and_cmmlu() {
    let data = tempfile::tempdir().unwrap();
    for name in CEVAL.names {
        let header = "id,question,A,B,C,D,answer";
        write(
            data.path(),
            &format!("ceval/val/{}_val.csv", name.file),
            &format!("{header}\n0,天空____。,红,绿,蓝,黑,C\n"),
        );
        let dev = format!("{header},explanation\n0,草____。,红,绿,蓝,黑,B,因为\n");
        write(data.path(), &format!("ceval/dev/{}_dev.csv", name.file), &dev);
    }
    for name in CMMLU.names {
        for split in ["dev", "test"] {
            let rows = ",Question,A,B,C,D,Answer\n0,天空是,红,绿,蓝,黑,C\n";
            write(data.path(), &format!("cmmlu/{split}/{}.csv", name.file), rows);
        }
    }
    let task = load(&request("ceval", &data, Preset::Qwen, Style::Base, 1)).unwrap();
    assert_eq!((task.average, task.categories.len(), task.metrics.len()), (Average::Macro, 5, 1));
    let first = item(&task, "physician/0");
    let expected =
        "问题：草____。\nA. 红\nB. 绿\nC. 蓝\nD. 黑\n答案：B\n\n问题：天空____。\nA. 红\nB. 绿\nC. 蓝\nD. 黑\n答案：";
    assert_eq!(text(first), expected);
    assert_eq!(first.ask, Ask::Choose(["A", "B", "C", "D"].map(str::to_owned).to_vec()));
    let task = load(&request("ceval", &data, Preset::LmEval, Style::Base, 0)).unwrap();
    assert_eq!(
        (task.average, task.metrics.as_slice()),
        (Average::Micro, ["acc".to_owned(), "acc_norm".to_owned()].as_slice())
    );
    let expected =
        "以下是中国关于医师资格的单项选择题，请选出其中的正确答案。\n\n天空____。\nA. 红\nB. 绿\nC. 蓝\nD. 黑\n答案：";
    assert_eq!(text(item(&task, "physician/0")), expected);
    assert_eq!(item(&task, "physician/0").ask, Ask::Choose([" A", " B", " C", " D"].map(str::to_owned).to_vec()));

    let task = load(&request("cmmlu", &data, Preset::LmEval, Style::Base, 0)).unwrap();
    let expected =
        "以下是关于农学的单项选择题，请直接给出正确答案的选项。\n\n天空是\nA. 红\nB. 绿\nC. 蓝\nD. 黑\n答案：";
    assert_eq!(text(item(&task, "agronomy/0")), expected);
    let task = load(&request("cmmlu", &data, Preset::Qwen, Style::Chat, 1)).unwrap();
    assert_eq!((task.average, task.categories.len()), (Average::Macro, 5));
    let first = item(&task, "agronomy/0");
    assert_eq!(turns(first)[2], "assistant: 答案是: C");
    assert_eq!(metric(first, "答案是: C"), 1.0);
}
