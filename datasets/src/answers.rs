//! Generates answers: polite or rude, true or false, concise or not, complete or cut off.

use rand::Rng;
use rand::seq::IndexedRandom;

use crate::world::{Ask, Language, Question, fill};

/// How the asker is addressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// A courteous opening that names the asker.
    Courteous,
    /// A courteous opening with somebody else's name.
    WrongName,
    /// The bare statement.
    Neutral,
    /// A rude opening.
    Rude,
}

/// The content of the statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fact {
    /// The true statement.
    True,
    /// The right statement with a wrong answer of the same class: "the capital of France is Tokyo".
    WrongAnswer,
    /// A true statement about something else of the same kind: "the capital of Japan is Tokyo".
    OtherSubject,
    /// A true statement of another kind: "an ant has six legs".
    OtherQuestion,
    /// The right statement with an answer of another class: "the capital of France is six".
    WrongClass,
    /// "I do not know."
    Refusal,
}

/// What follows the statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// A full stop.
    Point,
    /// A full stop and a needless second sentence.
    Rambling,
    /// A full stop and the whole statement again.
    Repeating,
    /// The answer is cut off.
    Cut,
}

/// A plan for an answer, which [`Answer::word`] turns into text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// How the asker is addressed.
    pub manner: Manner,
    /// The content of the statement.
    pub fact: Fact,
    /// What follows.
    pub ending: Ending,
}

/// Courteous openings, with a placeholder for the asker's name.
pub(crate) fn courteous_openings(language: Language) -> [&'static str; 2] {
    match language {
        Language::English => ["Certainly, {}, ", "Of course, {}, "],
        Language::Chinese => ["好的，{}，", "当然，{}，"],
    }
}

/// Rude openings.
pub(crate) fn rude_openings(language: Language) -> [&'static str; 2] {
    match language {
        Language::English => ["Silly question, ", "Stop asking, "],
        Language::Chinese => ["笨问题，", "别烦我，"],
    }
}

fn ramblings(language: Language) -> [&'static str; 3] {
    match language {
        Language::English => [
            " I could talk about this all day long.",
            " By the way, the weather is fine.",
            " There is so much more to say.",
        ],
        Language::Chinese => ["这个我可以说一整天。", "顺便说一句，天气很好。", "还有很多可以说的。"],
    }
}

impl Answer {
    /// Courteous, true, one complete sentence.
    pub const GOOD: Answer = Answer { manner: Manner::Courteous, fact: Fact::True, ending: Ending::Point };

    /// Generates the text of the answer. A plan has several wordings.
    pub fn word(&self, question: &Question, rng: &mut impl Rng) -> String {
        let language = question.language;
        let fact = self.fact.word(question, rng);
        let opening = match self.manner {
            Manner::Courteous => fill(one_of(&courteous_openings(language), rng), &[&question.name()]),
            Manner::WrongName => {
                let step = rng.random_range(1..language.num_names());
                let other = language.name((question.asker + step) % language.num_names());
                fill(one_of(&courteous_openings(language), rng), &[&other])
            }
            Manner::Neutral => String::new(),
            Manner::Rude => one_of(&rude_openings(language), rng).to_owned(),
        };
        let sentence = capitalised(&format!("{opening}{fact}"));
        let (stop, space) = if language == Language::English { (".", " ") } else { ("。", "") };
        match self.ending {
            Ending::Point => sentence + stop,
            Ending::Rambling => sentence + stop + one_of(&ramblings(language), rng),
            Ending::Repeating => format!("{sentence}{stop}{space}{}{stop}", capitalised(&fact)),
            Ending::Cut => cut(language, &sentence, rng),
        }
    }
}

impl Fact {
    fn word(self, question: &Question, rng: &mut impl Rng) -> String {
        let language = question.language;
        let statement = question.statement();
        let another = |wrong: &[&'static str], rng: &mut _| -> &'static str {
            wrong.choose(rng).copied().expect("every class has at least two answers")
        };
        match self {
            Fact::True => statement.text(),
            Fact::WrongAnswer => {
                let mut wrong = question.ask.candidates(language);
                wrong.retain(|&candidate| candidate != statement.answer);
                statement.with(another(&wrong, rng))
            }
            Fact::OtherSubject => question.ask.another(rng).statement(language).text(),
            Fact::OtherQuestion => different_kind(question.ask, language, rng).statement(language).text(),
            Fact::WrongClass => statement.with(different_kind(question.ask, language, rng).statement(language).answer),
            Fact::Refusal if language == Language::English => "I do not know".to_owned(),
            Fact::Refusal => "我不知道".to_owned(),
        }
    }
}

/// A question whose answers are of another class.
fn different_kind(ask: Ask, language: Language, rng: &mut impl Rng) -> Ask {
    loop {
        let drawn = Ask::draw(rng);
        if drawn.candidates(language) != ask.candidates(language) {
            return drawn;
        }
    }
}

/// Between a third and four fifths of the sentence, ending at a whole word (English) or character (Chinese).
fn cut(language: Language, sentence: &str, rng: &mut impl Rng) -> String {
    let ends: Vec<usize> = match language {
        Language::English => sentence.match_indices(' ').map(|(at, _)| at).collect(),
        Language::Chinese => sentence.char_indices().skip(1).map(|(at, _)| at).collect(),
    };
    let (first, last) = (ends.len() / 3, (ends.len() * 4 / 5).max(ends.len() / 3 + 1));
    sentence[..ends[rng.random_range(first..last)]].trim_end_matches([',', '，']).to_owned()
}

pub(crate) fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().collect::<String>() + letters.as_str())
}

fn one_of(choices: &[&'static str], rng: &mut impl Rng) -> &'static str {
    choices.choose(rng).copied().expect("the lists of wordings are not empty")
}
