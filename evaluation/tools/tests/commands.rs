//! Programs of the user's as tools, and the file that names them.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use align_core::error::Error;
use align_tools::command::CommandTool;
use align_tools::tool::InputFormat;
use align_tools::tool_file;
use align_tools::toolbox::{Observation, Tool};

use crate::scripted::described;

fn shell(script: &str) -> CommandTool {
    CommandTool {
        description: described("find"),
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        folder: std::env::temp_dir(),
        limit: Duration::from_secs(20),
        max_output_bytes: 1000,
    }
}

fn call(mut tool: CommandTool, input: &str) -> Observation {
    tool.call(input, Duration::from_secs(60)).unwrap()
}

#[test]
fn arguments_come_as_a_line_of_json() {
    let echo = || shell("cat");
    assert_eq!(call(echo(), "{'q': 'a\"b', }"), Observation::of("{\"q\":\"a\\\"b\"}"));
    assert_eq!(call(echo(), "```json\n{\"q\": 1}\n```").text, "{\"q\":1}");
    for (input, expected) in [
        ("not json", "error: the input is not JSON"),
        ("[1]", "error: the input is not an object"),
        ("{}", "error: the input lacks q"),
        ("{\"q\": 1, \"x\": 2, \"y\": 3}", "error: the input has x, y, expected only: q"),
        ("{\"q\": NaN}", "error: NaN is not a number of JSON"),
        (&"[".repeat(100_000), "error: the input is not JSON"),
    ] {
        let result = call(echo(), input);
        assert!(result.text.starts_with(expected) && result.is_error, "{}", result.text);
    }
    let code = CommandTool {
        description: align_tools::tool::ToolDescription { input: InputFormat::Code, ..described("c") },
        ..echo()
    };
    assert_eq!(call(code, "```py\nprint(1)\n```").text, "print(1)");
}

#[test]
fn failures_are_results() {
    let failed = call(shell("echo out; echo why >&2; exit 3"), "{'q': 1}");
    assert!(
        failed.is_error && failed.text == "error: the program ended with exit status: 3\nout\nwhy",
        "{}",
        failed.text
    );
    assert_eq!(call(shell("true"), "{'q': 1}"), Observation::of(""));
    assert_eq!(call(shell("printf 'a\\377b\\r\\n'"), "{'q': 1}").text, "a\u{fffd}b");
    let mut missing = shell("true");
    missing.command = vec!["/no/such/program".to_owned()];
    assert!(matches!(missing.call("{'q': 1}", Duration::from_secs(1)), Err(Error::Failed(_))));
}

#[test]
fn time_and_output_have_limits() {
    let begin = Instant::now();
    let slow = CommandTool { limit: Duration::from_millis(300), ..shell("sleep 60 & sleep 60") };
    let result = call(slow, "{'q': 1}");
    assert!(result.is_error && result.text == "error: no answer within 0.3 seconds", "{}", result.text);
    // What is left of the turn counts as well.
    let result = shell("sleep 60").call("{'q': 1}", Duration::from_millis(200)).unwrap();
    assert_eq!(result.text, "error: no answer within 0.2 seconds");
    let endless = call(CommandTool { limit: Duration::from_secs(1), ..shell("yes") }, "{'q': 1}");
    assert!(endless.is_error);
    // Output beyond the limit, also with input that is not read.
    let much = call(shell("head -c 300000 /dev/zero | tr '\\0' x"), "{'q': 1}");
    assert_eq!(much.text, format!("{}\n… the rest of more than 1000 bytes left out", "x".repeat(1000)));
    let unread = format!("{{'q': '{}'}}", "y".repeat(1 << 20));
    assert_eq!(call(shell("echo ok"), &unread).text, "ok");
    // A child that stays is ended with the program, or not waited for.
    assert_eq!(call(shell("echo ok; sleep 60 &"), "{'q': 1}").text, "ok");
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
}

fn read(text: &str) -> Result<Vec<CommandTool>, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tools.toml");
    fs::write(&file, text).unwrap();
    fs::write(folder.path().join("own.sh"), "").unwrap();
    tool_file::read(&file).map_err(|error| error.to_string().replace(&folder.path().display().to_string(), "DIR"))
}

#[test]
fn a_file_of_tools() {
    let tools = read(
        r#"
[[tool]]
name = "weather"
human_name = "Weather"
description = "The weather of a city."
command = ["sh", "-c", "cat"]
seconds = 5
[[tool.parameters]]
name = "city"
description = "the city"
required = true
[[tool.parameters]]
name = "unit"
type = "string"
enum = ["C", "F"]

[[tool]]
name = "run"
description = "Runs code."
command = ["./own.sh"]
input = "code"
"#,
    );
    let tools = tools.unwrap();
    let shown = r#"[{"name":"city","description":"the city","required":true,"schema":{"type":"string"}},{"name":"unit","description":"","required":false,"schema":{"type":"string","enum":["C","F"]}}]"#;
    assert_eq!(tools[0].description.parameters.to_string(), shown);
    assert_eq!((tools[0].limit, tools[0].max_output_bytes), (Duration::from_secs(5), 65_536));
    assert_eq!((tools[1].description.input, tools[1].description.human_name.as_str()), (InputFormat::Code, "run"));
    assert!(Path::new(&tools[1].command[0]).is_absolute() && tools[1].command[0].ends_with("own.sh"));
}

#[test]
fn everything_wrong_with_a_file_is_reported() {
    let wrong = read(
        r#"
[[tool]]
name = "a,b"
description = " "
command = ["no-such-program-anywhere"]
seconds = -1
max_output_bytes = 0
[[tool.parameters]]
name = "x"
type = "text"
[[tool.parameters]]
name = "x"
[[tool]]
name = "a,b"
description = "d"
command = []
"#,
    );
    let wrong = wrong.unwrap_err();
    for part in [
        "the name \"a,b\"",
        "`description` is empty",
        "no program no-such-program-anywhere in PATH or DIR",
        "`seconds` is -1",
        "`max_output_bytes` is 0",
        "parameter `x`: type `text`",
        "a second parameter `x`",
        "a second tool of this name",
        "`command` is empty",
    ] {
        assert!(wrong.contains(part), "{part}: {wrong}");
    }
    assert!(wrong.lines().all(|line| line.starts_with("DIR/tools.toml: tool `a,b`: ")), "{wrong}");
    assert!(read("").unwrap_err().contains("no tool, expected [[tool]]"));
    let unknown = read("[[tool]]\nname = \"a\"\ndescription = \"d\"\ncommand = [\"sh\"]\ncmd = 1\n").unwrap_err();
    assert!(unknown.starts_with("DIR/tools.toml:5: unknown field `cmd`"), "{unknown}");
    let error = tool_file::read(Path::new("/no/such/tools.toml")).unwrap_err();
    assert_eq!(error.exit_code(), 2);
}

#[test]
fn the_file_of_the_page_is_valid() {
    let page = fs::read_to_string(crate::repository("docs/tools.md")).unwrap();
    let file = page.split("```text\n").find(|block| block.starts_with("[[tool]]")).unwrap();
    let tools = read(file.split("```").next().unwrap()).unwrap();
    assert_eq!((tools.len(), tools[0].description.name.as_str()), (1, "weather"));
    assert_eq!((tools[0].limit, tools[0].max_output_bytes), (Duration::from_secs(30), 65_536));
}
