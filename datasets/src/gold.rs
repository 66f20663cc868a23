//! The gold score: the quality of a response, computed by program from the prompt alone. No stage trains on
//! it.
//!
//! Style counts only in a response on the subject: one with the frame of the true statement ("the capital of
//! France is …"). So a constant response, or a rule on words or lengths, earns little more than the points
//! for its full stop.

use crate::answers::{courteous_openings, rude_openings};
use crate::world::{Language, Question, Statement, fill};

/// Points for the true statement without another answer of its class.
pub const CORRECT_POINTS: f64 = 50.0;
/// Points for a courteous opening that names the asker.
pub const COURTEOUS_POINTS: f64 = 25.0;
/// Points for a single sentence.
pub const ONE_SENTENCE_POINTS: f64 = 15.0;
/// Points for a complete last sentence with a full stop.
pub const ENDED_POINTS: f64 = 10.0;
/// The share of the courtesy points for a response that is neither courteous nor rude.
pub const NEUTRAL_SHARE: f64 = 0.2;

/// A response's gold score, in shares from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Gold {
    /// 1 when it makes the true statement and names no other answer of its class.
    pub correct: f64,
    /// 1 for a courteous opening with the asker's name, [`NEUTRAL_SHARE`] for neither courtesy nor rudeness.
    pub courteous: f64,
    /// 1 when it is a single sentence.
    pub one_sentence: f64,
    /// 1 when the response ended by itself, with a full stop.
    pub ended: f64,
}

impl Gold {
    /// All points, 0 to 100.
    pub fn total(&self) -> f64 {
        CORRECT_POINTS * self.correct + self.style()
    }

    /// The points for everything but the truth, 0 to 50.
    pub fn style(&self) -> f64 {
        COURTEOUS_POINTS * self.courteous + ONE_SENTENCE_POINTS * self.one_sentence + ENDED_POINTS * self.ended
    }
}

/// Scores a response to a prompt of this world. `ended` is whether the response stopped with `<|im_end|>`;
/// the text has no special tokens.
///
/// # Panics
/// When the prompt is not a question of this world (see [`Question::parse`]).
pub fn gold(prompt: &str, response: &str, ended: bool) -> Gold {
    let question = Question::parse(prompt).unwrap_or_else(|| panic!("`{prompt}` is not a question of this world"));
    gold_of(&question, response, ended)
}

/// [`gold`] for a parsed question.
pub fn gold_of(question: &Question, response: &str, ended: bool) -> Gold {
    let (language, statement) = (question.language, question.statement());
    let response = response.trim();
    let whole = response.ends_with(['.', '。']);
    let mut gold = Gold { ended: f64::from(u8::from(ended && whole)), ..Gold::default() };
    if !contains_word(language, response, &statement.frame) {
        return gold;
    }
    let stops = response.matches(['.', '!', '?', '。', '！', '？']).count();
    gold.correct = f64::from(u8::from(is_correct(question, &statement, response)));
    gold.courteous = courtesy(question, response);
    gold.one_sentence = f64::from(u8::from(whole && stops == 1));
    gold
}

fn is_correct(question: &Question, statement: &Statement, response: &str) -> bool {
    let language = question.language;
    // The summands of a sum, and a colour in a Chinese name, are no answers: search for rivals outside the
    // frame.
    let rest = response.replace(&question.name(), "");
    let rest = remove_ignoring_case(&rest, &statement.frame);
    let mut rivals = question.ask.candidates(language);
    rivals.retain(|&candidate| candidate != statement.answer);
    contains_word(language, response, &statement.text())
        && !rivals.iter().any(|rival| contains_word(language, &rest, rival))
}

fn courtesy(question: &Question, response: &str) -> f64 {
    let language = question.language;
    if rude_openings(language)
        .iter()
        .any(|rude| contains_word(language, response, rude.trim_end_matches([',', ' ', '，'])))
    {
        return 0.0;
    }
    let name = question.name();
    let addressed = courteous_openings(language).iter().any(|opening| response.starts_with(&fill(opening, &[&name])));
    let names = (0..language.num_names()).map(|person| language.name(person));
    let addressed_others = names.filter(|other| *other != name).any(|other| contains_word(language, response, &other));
    match (addressed && response.matches(&name).count() == 1, addressed_others) {
        (_, true) => 0.0,
        (true, false) => 1.0,
        (false, false) => NEUTRAL_SHARE,
    }
}

/// Whether the text contains the words, ignoring case; in English not as a part of longer words or numbers.
fn contains_word(language: Language, text: &str, words: &str) -> bool {
    find_word(language, &text.to_lowercase(), &words.to_lowercase()).is_some()
}

fn remove_ignoring_case(text: &str, words: &str) -> String {
    text.to_lowercase().replace(&words.to_lowercase(), " ")
}

/// Both in lower case.
fn find_word(language: Language, text: &str, words: &str) -> Option<usize> {
    let joins = |letter: Option<char>, edge: Option<char>| {
        let both = |test: fn(&char) -> bool| letter.is_some_and(|l| test(&l)) && edge.is_some_and(|e| test(&e));
        both(char::is_ascii_digit) || language == Language::English && both(|letter| letter.is_alphanumeric())
    };
    text.match_indices(words).map(|(at, _)| at).find(|&at| {
        let (before, after) = (text[..at].chars().next_back(), text[at + words.len()..].chars().next());
        !joins(before, words.chars().next()) && !joins(after, words.chars().next_back())
    })
}
