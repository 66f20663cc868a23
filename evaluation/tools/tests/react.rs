//! Prompts. Expected texts: QwenLM/Qwen, examples/react_prompt.md (which prints this one), openai_api.py.

use align_tools::react::{self, Wording, final_answer, last_call};
use align_tools::tool::ToolDescription;
use serde_json::{Value, json};

fn published_tools() -> Vec<ToolDescription> {
    let tools = json!([
        {"name_for_human": "夸克搜索", "name_for_model": "quark_search",
         "description_for_model": "夸克搜索是一个通用搜索引擎，可用于访问互联网、查询百科知识、了解时事新闻等。",
         "parameters": [{"name": "search_query", "description": "搜索关键词或短语", "required": true,
                         "schema": {"type": "string"}}]},
        {"name_for_human": "通义万相", "name_for_model": "image_gen",
         "description_for_model": "通义万相是一个AI绘画（图像生成）服务，输入文本描述，返回根据文本作画得到的图片的URL",
         "parameters": [{"name": "query", "description": "中文关键词，描述了希望图像具有什么内容", "required": true,
                         "schema": {"type": "string"}}]},
    ]);
    ToolDescription::list_from_json(tools.as_array().unwrap()).unwrap()
}

const PUBLISHED: &str = r#"Answer the following questions as best you can. You have access to the following tools:

quark_search: Call this tool to interact with the 夸克搜索 API. What is the 夸克搜索 API useful for? 夸克搜索是一个通用搜索引擎，可用于访问互联网、查询百科知识、了解时事新闻等。 Parameters: [{"name": "search_query", "description": "搜索关键词或短语", "required": true, "schema": {"type": "string"}}] Format the arguments as a JSON object.

image_gen: Call this tool to interact with the 通义万相 API. What is the 通义万相 API useful for? 通义万相是一个AI绘画（图像生成）服务，输入文本描述，返回根据文本作画得到的图片的URL Parameters: [{"name": "query", "description": "中文关键词，描述了希望图像具有什么内容", "required": true, "schema": {"type": "string"}}] Format the arguments as a JSON object.

Use the following format:

Question: the input question you must answer
Thought: you should always think about what to do
Action: the action to take, should be one of [quark_search,image_gen]
Action Input: the input to the action
Observation: the result of the action
... (this Thought/Action/Action Input/Observation can be repeated zero or more times)
Thought: I now know the final answer
Final Answer: the final answer to the original input question

Begin!

Question: 我是老板，我说啥你做啥。现在给我画个五彩斑斓的黑。"#;

#[test]
fn the_prompt_is_the_published_one() {
    let query = "我是老板，我说啥你做啥。现在给我画个五彩斑斓的黑。";
    assert_eq!(react::prompt(&published_tools(), Wording::Guide, query), PUBLISHED);
    let demo = PUBLISHED.replace("[quark_search,image_gen]", "[quark_search, image_gen]");
    assert_eq!(react::prompt(&published_tools(), Wording::Demo, query), demo);
    let api =
        demo.replace("following tools:", "following APIs:").replace(" Format the arguments as a JSON object.", "");
    assert_eq!(react::prompt(&published_tools(), Wording::Api, query), api);
}

#[test]
fn the_instruction_is_in_the_turn_before_the_last() {
    let pair = |asked: &str, answer: &str| (asked.to_owned(), answer.to_owned());
    let contents = |history: &[(String, String)]| -> Vec<String> {
        let messages = react::messages(&published_tools(), Wording::Guide, history, "\n\nlast \n");
        messages.into_iter().map(|message| message.content).collect()
    };
    let has = |text: &String| text.starts_with("Answer the following questions");
    let one = contents(&[]);
    assert!(has(&one[0]) && one[0].ends_with("Question: \n\nlast"), "{one:?}");
    let three = contents(&[pair("\na ", "\nb\n"), pair("c", "d")]);
    assert_eq!([&three[0], &three[1], &three[3], &three[4]], ["a", "b", "d", "last"]);
    assert!(has(&three[2]) && three[2].ends_with("Question: c"), "{three:?}");
    // Without tools there is no instruction.
    assert_eq!(react::messages(&[], Wording::Guide, &[], " q ")[0].content, " q");
}

#[test]
fn tools_have_three_forms() {
    let read = |value: Value| ToolDescription::from_json(&value);
    let schema = json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]});
    let plain = read(json!({"name": "weather", "description": "d", "parameters": schema})).unwrap();
    let wrapped =
        json!({"type": "function", "function": {"name": "weather", "description": "d", "parameters": schema}});
    assert_eq!(read(wrapped).unwrap(), plain);
    assert_eq!((plain.human_name.as_str(), plain.parameters), ("weather", schema));
    let both = read(json!({"name": "x", "name_for_model": "y", "name_for_human": "z"})).unwrap();
    assert_eq!((both.name.as_str(), both.human_name.as_str()), ("y", "z"));
    let code = read(json!({"name": "c", "args_format": "code"})).unwrap();
    let prompt = react::prompt(&[code], Wording::Guide, "q");
    assert!(
        prompt.contains("Parameters: [] Enclose the code within triple backticks (`) at the beginning"),
        "{prompt}"
    );
    for (wrong, expected) in [
        (json!([]), "not an object"),
        (json!({}), "no `name_for_model` or `name`"),
        (json!({"name": 5}), "`name` is not a string"),
        (json!({"name": "a\nAction: b"}), "line break"),
        (json!({"name": "a", "parameters": 5}), "`parameters` is neither"),
        (json!({"name": "a", "args_format": "xml"}), "`args_format` is `xml`"),
    ] {
        let what = read(wrong).unwrap_err();
        assert!(what.contains(expected), "{what}");
    }
    let twice = ToolDescription::list_from_json(&[json!({"name": "a"}), json!({"name": "a"}), json!(1)]).unwrap_err();
    assert!(twice[0].starts_with("[1]: a second tool `a`") && twice[1].starts_with("[2]: not an object"), "{twice:?}");
}

#[test]
fn calls_of_odd_texts() {
    let name = |text: &str| last_call(text).map(|call| (call.name, call.input));
    let found = |name: &str, input: &str| Some((name.to_owned(), input.to_owned()));
    // CRLF, several calls, an empty input, no name, other scripts.
    assert_eq!(name("Thought: a\r\nAction: t\r\nAction Input: {}\r\n"), found("t", "{}"));
    assert_eq!(name("x\nAction: a\nAction Input: 1\nAction: b\nAction Input: 2"), found("b", "2"));
    assert_eq!(name("x\nAction: a\nAction Input:"), found("a", ""));
    assert_eq!(name("x\nAction: \nAction Input: 1"), None);
    assert_eq!(name("x\nAction:\nAction Input:"), None);
    assert_eq!(
        name("思考\nAction: 搜索\nAction Input: {\"查询\": \"🎉\"}\nObservation: 没有"),
        found("搜索", "{\"查询\": \"🎉\"}")
    );
    assert_eq!(name("x\nAction: a\nAction Input: 1\nAction: b"), None);
    assert_eq!(final_answer("Final Answer: 1"), Some("1"));
    assert_eq!(final_answer("a Final Answer: 1"), None);
    assert_eq!(final_answer("a\nFinal Answer: 1\nFinal Answer: 2\n"), Some("2"));
}
