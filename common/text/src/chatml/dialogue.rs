//! What a dialogue is before it is tokens: turns, who speaks them, and what a turn holds beside its text.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The instructions that a dialogue stands under.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// A program that the model called: its answer. Only a chat template knows how to write it.
    Tool,
}

impl Role {
    /// All roles, in the order of their definition.
    pub const ALL: [Role; 4] = [Role::System, Role::User, Role::Assistant, Role::Tool];

    /// As ChatML writes it.
    pub fn name(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        }
    }

    /// The role that ChatML writes as `name`.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }
}

/// One turn of a dialogue.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Who says it.
    pub role: Role,
    /// What is said, verbatim.
    pub content: String,
    /// The reasoning before an answer, where the row keeps it apart from the content.
    pub reasoning: Option<String>,
    /// Calls of tools, as the row writes them: the chat template decides how they are rendered.
    pub tool_calls: Vec<Value>,
    /// The name of the tool that answers, where the row says it.
    pub name: Option<String>,
    /// Whether sft trains on it, if it is an answer.
    pub is_trained: bool,
    /// Whether the answer is whole. One that was cut off does not teach where answers end.
    pub is_whole: bool,
}

impl Message {
    /// A turn that holds text and nothing else.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self {
            role,
            content: content.into(),
            reasoning: None,
            tool_calls: Vec::new(),
            name: None,
            is_trained: true,
            is_whole: true,
        }
    }

    /// Whether an answer says nothing: no text, no reasoning, no call.
    pub fn is_empty_answer(&self) -> bool {
        let reasons = self.reasoning.as_ref().is_some_and(|reasoning| !reasoning.trim().is_empty());
        self.role == Role::Assistant && self.content.trim().is_empty() && self.tool_calls.is_empty() && !reasons
    }

    /// As `{"role", "content"}` with what else it holds, in the spelling of OpenAI's messages: what rows say and templates read.
    pub fn to_json(&self) -> Value {
        let mut message = Map::new();
        message.insert("role".to_owned(), json!(self.role.name()));
        message.insert("content".to_owned(), json!(self.content));
        if let Some(reasoning) = &self.reasoning {
            message.insert("reasoning_content".to_owned(), json!(reasoning));
        }
        if !self.tool_calls.is_empty() {
            message.insert("tool_calls".to_owned(), json!(self.tool_calls));
        }
        if let Some(name) = &self.name {
            message.insert("name".to_owned(), json!(name));
        }
        Value::Object(message)
    }

    /// Whether two turns say the same, whatever is trained of them.
    pub fn says_the_same(&self, other: &Self) -> bool {
        let said = |message: &Self| {
            (message.role, message.content.clone(), message.reasoning.clone(), message.tool_calls.clone())
        };
        said(self) == said(other)
    }
}

/// Turns, and the tools that the model may call in them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Dialogue {
    /// The turns, in order.
    pub messages: Vec<Message>,
    /// Descriptions of tools, as the row writes them.
    pub tools: Vec<Value>,
}

impl Dialogue {
    /// Every text in it that a person or a model wrote.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.messages
            .iter()
            .flat_map(|message| [Some(message.content.as_str()), message.reasoning.as_deref()])
            .flatten()
    }

    /// The dialogue up to `end` turns.
    pub fn up_to(&self, end: usize) -> Self {
        Self { messages: self.messages[..end].to_vec(), tools: self.tools.clone() }
    }
}

impl From<Vec<Message>> for Dialogue {
    fn from(messages: Vec<Message>) -> Self {
        Self { messages, tools: Vec::new() }
    }
}

impl<const N: usize> From<[Message; N]> for Dialogue {
    fn from(messages: [Message; N]) -> Self {
        Vec::from(messages).into()
    }
}
