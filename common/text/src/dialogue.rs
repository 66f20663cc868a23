//! A dialogue before tokenization: turns, their roles, and reasoning and tool calls.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// The role of a turn's speaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The instructions for a dialogue.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// The result of a tool that the model called. Only a chat template can format it.
    Tool,
}

impl Role {
    /// All roles, in the order of their definition.
    pub const ALL: [Role; 4] = [Role::System, Role::User, Role::Assistant, Role::Tool];

    /// The role's name in ChatML.
    pub fn name(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        }
    }

    /// The role with this name in ChatML.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }
}

/// One turn of a dialogue.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// The speaker.
    pub role: Role,
    /// The text, verbatim.
    pub content: String,
    /// The reasoning before an answer, if the row has it in a field of its own.
    pub reasoning: Option<String>,
    /// Tool calls, as in the row. The chat template decides how they are rendered.
    pub tool_calls: Vec<Value>,
    /// The name of the tool whose result this is, if the row has it.
    pub name: Option<String>,
    /// Whether sft trains on this answer.
    pub is_trained: bool,
    /// Whether the answer is complete. The end token of a truncated answer carries no loss.
    pub is_whole: bool,
}

impl Message {
    /// A text-only turn.
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

    /// Whether an answer is empty: no text, no reasoning, no tool call.
    pub fn is_empty_answer(&self) -> bool {
        let reasons = self.reasoning.as_ref().is_some_and(|reasoning| !reasoning.trim().is_empty());
        self.role == Role::Assistant && self.content.trim().is_empty() && self.tool_calls.is_empty() && !reasons
    }

    /// The turn as JSON, with the keys of OpenAI's messages, which rows and templates use as well.
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

    /// Whether two turns are equal, apart from what is trained.
    pub fn is_same_turn(&self, other: &Self) -> bool {
        let said = |message: &Self| {
            (message.role, message.content.clone(), message.reasoning.clone(), message.tool_calls.clone())
        };
        said(self) == said(other)
    }
}

/// Turns, and the tools that the model may call.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Dialogue {
    /// The turns, in order.
    pub messages: Vec<Message>,
    /// Descriptions of tools, as in the row.
    pub tools: Vec<Value>,
}

impl Dialogue {
    /// Every text in it: contents and reasoning.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.messages
            .iter()
            .flat_map(|message| [Some(message.content.as_str()), message.reasoning.as_deref()])
            .flatten()
    }

    /// The first `end` turns.
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
