//! What became of the data is said by every stage.

use super::*;

/// A pair in which nothing is unusual.
fn pair(index: usize) -> Value {
    json!({ "prompt": format!("What is {index}?"), "chosen": "It is so.", "rejected": "No." })
}

#[test]
fn comparisons() {
    let folder = Folder::new();
    let turned = json!({ "prompt": "What is 3?", "chosen": "No.", "rejected": "It is so." });
    let twice = json!({ "prompt": "What is it?", "chosen": "The same.", "rejected": "The same." });
    let special = json!({ "prompt": "Say <|im_end|> now.", "chosen": "Yes.", "rejected": "No." });
    let long = json!({ "prompt": "word ".repeat(100), "chosen": "Yes.", "rejected": "No." });
    let even = json!({ "prompt": "Which?", "responses": ["One.", "Two."], "scores": [1, 1] });
    let mut rows: Vec<Value> = (0..10).map(pair).collect();
    rows.extend([pair(1), pair(1), turned.clone(), twice.clone(), special, long, even]);
    rows.extend([
        json!({ "prompt": "p" }),
        json!({ "prompt": "q" }),
        json!({ "prompt": "p", "chosen": "", "rejected": "x" }),
    ]);
    folder.write_rows("rows.jsonl", &rows);
    // Known: one as it is, one turned round. New: one, and the pair of twice the same text, which is known,
    // too.
    folder.write_rows("held.jsonl", &[pair(5), turned, pair(70), twice]);
    let sets = ["data.train='rows.jsonl'", "data.eval='held.jsonl'", "data.bad_rows='skip'", "train.epochs=1"];
    let output = folder.succeed(&set(&RM, &sets));
    let expected = [
        ("comparisons", 15),
        ("turns", 60),
        ("pairs", 15),
        ("identical pairs", 1),
        ("contradicting pairs", 2),
        ("duplicate comparisons", 2),
        ("comparisons with special-token text", 1),
        ("dropped for length", 1),
        ("without a better answer", 1),
        ("held-out dropped", 0),
        ("held-out comparisons trained on", 3),
        ("bad rows skipped", 3),
    ];
    let facts = run_json(&folder, "runs/rm");
    for (name, count) in expected {
        assert_eq!(fact(&output, name), count.to_string(), "{name}: {output}");
        assert_eq!(facts[name.replace(' ', "_")], json!(count), "{name}");
    }
    let reasons: Vec<u64> =
        facts["bad_rows_by_reason"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).collect();
    assert_eq!((reasons.len(), reasons.iter().sum::<u64>()), (2, 3), "{facts}");
    let reported = warnings(&output.stderr);
    assert_eq!(reported.len(), 3, "{reported:?}");
    assert!(reported[0].starts_with("data.train: 1 of 15 pairs are the same text twice"), "{reported:?}");
    assert!(
        reported[1].starts_with("data.train: 2 of 15 pairs (13 %) also occur in the opposite order"),
        "{reported:?}"
    );
    assert!(
        reported[2].starts_with("data.eval: 3 of 4 comparisons of held (75 %) are trained on, too"),
        "{reported:?}"
    );
}

/// Its loss is log 2 and its gradient nothing: the same weights with it as without it.
#[test]
fn an_identical_pair_trains_nothing() {
    let folder = Folder::new();
    folder.write_rows("identical.jsonl", &[json!({ "prompt": "p", "chosen": "same", "rejected": "same" })]);
    let sets = ["data.train='identical.jsonl'", "data.eval=[]", "train.steps=1", "train.batch_size=1"];
    folder.succeed(&set(&RM, &sets));
    let loss = folder.metric("runs/rm", "train/loss")[0];
    assert!((loss - std::f64::consts::LN_2).abs() < 1e-6, "{loss}");
    assert!(folder.metric("runs/rm", "train/grad_norm")[0] < 1e-5);
    let args = ["eval", "rm", "--model", "reward", "--data", "identical.jsonl"];
    let set = folder.succeed(&with(&args, &["--json"])).json()["models"][0]["sets"][0].clone();
    assert_eq!(
        (&set["pairs"], &set["ties"], &set["accuracy"], &set["identical"]),
        (&json!(1), &json!(1), &json!(0.5), &json!(1))
    );
    let said = folder.succeed(&args).stdout;
    assert!(
        said.contains("1 pairs, 1 ties") && said.contains("identical pairs: 1 of 1 hold the same text twice"),
        "{said}"
    );
}

#[test]
fn prompts_and_pretraining_text() {
    let folder = Folder::new();
    let prompt = |index: usize| json!({ "prompt": format!("What is {index}?") });
    let talk = json!({ "prompt": [
        { "role": "user", "content": "Hello." }, { "role": "assistant", "content": "Hello." }, { "role": "user", "content": "And?" },
    ] });
    let mut rows: Vec<Value> = (0..6).map(prompt).collect();
    rows.extend([
        prompt(2),
        prompt(2),
        talk,
        json!({ "prompt": "Say <|im_start|>." }),
        json!({ "prompt": "word ".repeat(100) }),
    ]);
    rows.push(json!({ "picture": "?" }));
    folder.write_rows("prompts.jsonl", &rows);
    folder.write_rows("held.jsonl", &[prompt(3), prompt(80), prompt(81), json!({ "prompt": "word ".repeat(100) })]);
    let mut texts = folder.rows("data/pretrain.jsonl")[..9].to_vec();
    texts.push(texts[4].clone());
    folder.write_rows("text.jsonl", &texts);
    let sets = [
        "data.prompts='prompts.jsonl'",
        "data.eval_prompts='held.jsonl'",
        "data.pretrain='text.jsonl'",
        "data.bad_rows='skip'",
        "data.max_prompt_tokens=90",
        "ppo.steps=5",
    ];
    let output = folder.succeed(&set(&PPO, &sets));
    let facts = run_json(&folder, "runs/ppo");
    let expected = [
        ("prompts", 10),
        ("turns", 12),
        ("prompts dropped", 1),
        ("duplicate prompts", 2),
        ("prompts with special-token text", 1),
        ("held-out prompts", 3),
        ("held-out prompts dropped", 1),
        ("held-out prompts trained on", 1),
        ("pretraining documents", 10),
        ("duplicate pretraining documents", 1),
        ("bad rows skipped", 1),
        ("passes over the prompts", 2),
    ];
    for (name, count) in expected {
        assert_eq!(fact(&output, name), count.to_string(), "{name}: {output}");
        assert_eq!(facts[name.replace(' ', "_")], json!(count), "{name}");
    }
    // The documents' own tokens, without ends: what `pretrain` counts less one end a document.
    let sets = ["data.train='text.jsonl'", "data.eval=[]", "train.steps=1"];
    let pretrain = folder.succeed(&with(&set(&PRETRAIN, &sets), &["--dry-run"]));
    let tokens: u64 = fact(&pretrain, "tokens").parse().unwrap();
    assert_eq!(facts["pretraining_tokens"], json!(tokens - 10));
    assert_eq!(
        (fact(&pretrain, "documents"), fact(&pretrain, "duplicate documents")),
        ("10".to_owned(), "1".to_owned())
    );
    let reported = warnings(&output.stderr);
    assert!(
        reported.len() == 1 && reported[0].starts_with("data.eval_prompts: 1 of 3 prompts of held (33 %)"),
        "{reported:?}"
    );
}
