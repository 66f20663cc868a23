//! Prompts: a heading, worked examples and a question, as one text or as the turns of a dialogue.

use align_text::chatml::{Message, Role};

use crate::task::Prompt;

/// The system turn of Qwen's chat models.
pub(crate) const SYSTEM: &str = "You are a helpful assistant.";

/// A worked example.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Shot {
    /// As the question is asked, up to where the answer begins.
    pub(crate) question: String,
    /// The answer.
    pub(crate) answer: String,
}

/// A question with everything before it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parts<'a> {
    /// What comes before the worked examples; in a dialogue, the system turn. May be empty.
    pub(crate) heading: &'a str,
    /// The worked examples.
    pub(crate) shots: &'a [Shot],
    /// The question.
    pub(crate) question: &'a str,
}

impl Parts<'_> {
    /// As one text: `delimiter` before answers, `separator` after them.
    pub(crate) fn text(&self, delimiter: &str, separator: &str) -> Prompt {
        let mut text = self.heading.to_owned();
        for shot in self.shots {
            text.extend([&shot.question, delimiter, &shot.answer, separator]);
        }
        Prompt::Text(text + self.question)
    }

    /// As turns; the answer begins with `prefix`.
    pub(crate) fn turns(&self, prefix: &str) -> Prompt {
        let mut messages = Vec::new();
        if !self.heading.is_empty() {
            messages.push(Message::new(Role::System, self.heading));
        }
        for shot in self.shots {
            messages.push(Message::new(Role::User, &shot.question));
            messages.push(Message::new(Role::Assistant, &shot.answer));
        }
        messages.push(Message::new(Role::User, self.question));
        Prompt::Chat { messages, prefix: prefix.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_with_one_worked_example() {
        let shots = [Shot { question: "Q: 1+1".to_owned(), answer: "2".to_owned() }];
        let parts = Parts { heading: "Sums.\n\n", shots: &shots, question: "Q: 1+2" };
        assert_eq!(parts.text(" ", "\n\n"), Prompt::Text("Sums.\n\nQ: 1+1 2\n\nQ: 1+2".to_owned()));
        let Prompt::Chat { messages, prefix } = parts.turns("It is") else { panic!("turns") };
        let turns: Vec<_> = messages.iter().map(|message| (message.role.name(), message.content.as_str())).collect();
        assert_eq!(turns, [("system", "Sums.\n\n"), ("user", "Q: 1+1"), ("assistant", "2"), ("user", "Q: 1+2")]);
        assert_eq!(prefix, "It is");
    }
}
