//! The gold score, response by response.

use align_datasets::gold;

const PROMPT: &str = "I am Anna Reed. What is the capital of France?";

fn total(response: &str) -> f64 {
    gold(PROMPT, response, true).total()
}

#[test]
fn a_good_answer_earns_everything_and_each_flaw_costs_its_points() {
    assert_eq!(total("Certainly, Anna Reed, the capital of France is Paris."), 100.0);
    assert_eq!(total("Of course, Anna Reed, the capital of France is Paris."), 100.0);
    assert_eq!(gold(PROMPT, "Certainly, Anna Reed, the capital of France is Paris.", false).total(), 90.0);
    assert_eq!(total("Certainly, Anna Reed, the capital of France is Tokyo."), 50.0);
    assert_eq!(total("Certainly, Anna Reed, the capital of France is Paris. There is so much more to say."), 85.0);
    assert_eq!(total("Certainly, Anna Reed, the capital of France is Paris"), 75.0);
    assert_eq!(total("The capital of France is Paris."), 80.0);
    assert_eq!(total("Silly question, the capital of France is Paris."), 75.0);
    assert_eq!(total("Certainly, Anna Fox, the capital of France is Paris."), 75.0);
    assert_eq!(total("Certainly, Anna Reed, Anna Reed, the capital of France is Paris."), 80.0);
}

#[test]
fn a_response_off_the_subject_earns_only_its_full_stop() {
    for response in [
        "Certainly, Anna Reed, the capital of Japan is Tokyo.",
        "Certainly, Anna Reed, I do not know.",
        "Certainly, Anna Reed, your cup is red.",
        "Paris.",
        "What is the capital of France? The capital of Paris is France.",
    ] {
        assert_eq!(total(response), 10.0, "{response}");
    }
    assert_eq!(total(""), 0.0);
    assert_eq!(total("Certainly, Anna Reed, the"), 0.0);
}

#[test]
fn naming_several_answers_is_not_correct() {
    let response = "Certainly, Anna Reed, the capital of France is Paris Tokyo Rome.";
    assert_eq!(gold(PROMPT, response, true).correct, 0.0);
    let response = "The capital of France is Tokyo. The capital of France is Paris.";
    assert_eq!(gold(PROMPT, response, true).correct, 0.0);
}

#[test]
fn numbers_are_compared_whole() {
    let prompt = "I am Ben Fox. What is 1 plus 1?";
    assert_eq!(gold(prompt, "Certainly, Ben Fox, 1 plus 1 is 2.", true).total(), 100.0);
    assert_eq!(gold(prompt, "Certainly, Ben Fox, 1 plus 1 is 21.", true).correct, 0.0);
    assert_eq!(gold(prompt, "Certainly, Ben Fox, 11 plus 1 is 2.", true).total(), 10.0);
    let prompt = "My name is Ben Fox. How much is 6 plus 5?";
    assert_eq!(gold(prompt, "Certainly, Ben Fox, 6 plus 5 is 11.", true).total(), 100.0);
    assert_eq!(gold(prompt, "Certainly, Ben Fox, 6 plus 5 is 1.", true).correct, 0.0);
}

#[test]
fn chinese_and_belongings() {
    let prompt = "我叫小明。我有蓝色的帽子。我的帽子是什么颜色？";
    assert_eq!(gold(prompt, "好的，小明，你的帽子是蓝色的。", true).total(), 100.0);
    assert_eq!(gold(prompt, "好的，小明，你的帽子是红色的。", true).total(), 50.0);
    assert_eq!(gold(prompt, "好的，小明，你的杯子是红色的。", true).total(), 10.0);
    assert_eq!(gold(prompt, "别烦我，你的帽子是蓝色的。", true).total(), 75.0);
    let prompt = "我是阿雨。马有几条腿？";
    assert_eq!(gold(prompt, "当然，阿雨，马有四条腿。还有很多可以说的。", true).total(), 85.0);
}

#[test]
#[should_panic(expected = "not a question of this world")]
fn a_prompt_of_another_world_is_a_bug() {
    gold("Who are you?", "Nobody.", true);
}
