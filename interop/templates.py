"""Dialogues of every kind, rendered by `align` and by transformers' apply_chat_template with the published templates: equal ids, and loss
on the assistant's parts alone; or a refusal, where the template itself fails or leaves something out."""
import json
import random

import transformers

from lab import END, check, random_model

DIALOGUES = 200
START = "<|im_start|>"
EMPTY_THINK = "<think>\n\n</think>\n\n"

WORDS = ["sun", "two", "Oslo", "东京", "naïve", "x = {1: 'a'}", "<b>", "\"quoted\"", "1e-5", "—", "🙂", "don't", "</answer>", "{{ y }}"]


def text(rng, may_be_empty=False):
    """A few words, often with white space at the ends; line breaks at the beginning are another kind, which `leads` looks for."""
    if may_be_empty and rng.random() < 0.08:
        return ""
    words = " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 8)))
    if rng.random() < 0.3:
        words = words.replace(" ", rng.choice(["\n", "\n\n", "  ", "\t"]), 1)
    return rng.choice(["", "", "", "", " ", "  ", "\t", "" if rng.random() < 0.8 else "\n"]) + words + rng.choice(["", "", "", " ", "\n", " \n\n", "\t"])


def reasoned(rng, answer):
    """An answer with reasoning in its content, in the forms that data sets have."""
    why = text(rng)
    return rng.choice([
        f"<think>\n{why}\n</think>\n\n{answer}", f"<think>{why}</think>{answer}", f"<think></think>{answer}",
        f"<think>\n\n</think>\n\n{answer}", f"<think>\n\n\n{why}\n\n\n</think>\n\n\n\n{answer}", f"{why}</think>{answer}",
        f"{answer} <think>", f"<think>{why}</think>\n", f"a<think>{why}</think>b</think>{answer}",
    ])


def value(rng, depth=0):
    kinds = ["text", "int", "float", "bool", "none"] + (["list", "dict"] if depth < 2 else [])
    kind = rng.choice(kinds)
    return {
        "text": lambda: text(rng).strip("\n"), "int": lambda: rng.randint(-10**12, 10**12),
        "float": lambda: rng.choice([0.5, 1.0, -2.25, 1e-7, 1.5e300, 3e16, 0.1]), "bool": lambda: rng.random() < 0.5,
        "none": lambda: None, "list": lambda: [value(rng, depth + 1) for _ in range(rng.randint(0, 3))],
        "dict": lambda: {rng.choice(WORDS) + str(at): value(rng, depth + 1) for at in range(rng.randint(0, 3))},
    }[kind]()


def tool(rng, name):
    properties = {f"p{at}": {"type": "string", "description": text(rng).strip("\n")} for at in range(rng.randint(0, 3))}
    function = {"name": name, "description": text(rng).strip("\n"), "parameters": {"type": "object", "properties": properties, "required": list(properties)}}
    return {"type": "function", "function": function} if rng.random() < 0.8 else function


def called(rng, name):
    arguments = {f"p{at}": value(rng) for at in range(rng.randint(0, 3))}
    function = {"name": name, "arguments": json.dumps(arguments) if rng.random() < 0.2 else arguments}
    return {"type": "function", "function": function} if rng.random() < 0.8 else function


def dialogue(rng):
    messages, tools = [], []
    if rng.random() < 0.4:
        messages.append({"role": "system", "content": text(rng, may_be_empty=True)})
    with_tools = rng.random() < 0.35
    if with_tools:
        tools = [tool(rng, f"tool_{at}") for at in range(rng.randint(1, 3))]
    if rng.random() < 0.1:
        messages.append({"role": "assistant", "content": text(rng)})
    for _ in range(rng.randint(1, 3)):
        messages.append({"role": "user", "content": text(rng, may_be_empty=True)})
        if with_tools and rng.random() < 0.7:
            for _ in range(rng.randint(1, 2)):
                content = rng.choice(["", text(rng), reasoned(rng, text(rng))])
                calls = [called(rng, "tool_0") for _ in range(rng.randint(1, 2))]
                messages.append({"role": "assistant", "content": content, "tool_calls": calls})
                messages += [{"role": "tool", "name": "tool_0", "content": text(rng)} for _ in calls]
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            answer = {"role": "assistant", "content": text(rng)}
            form = rng.random()
            if form < 0.25:
                answer["content"] = reasoned(rng, answer["content"])
            elif form < 0.35:
                answer["reasoning_content"] = text(rng)
            messages.append(answer)
    if rng.random() < 0.1:
        messages.append({"role": "user", "content": text(rng)})
    return {"messages": messages, **({"tools": tools} if tools else {})}


def leads(rendered):
    """Whether a turn's text begins with a line break, after the one that ends the role's line."""
    turns = [turn.split("\n", 1)[1] for turn in rendered.split(START)[1:]]
    return any("\n" in turn[: len(turn) - len(turn.lstrip())] for turn in (turn.split(END)[0] for turn in turns))


def trained(rendered, thinks):
    """The assistant's parts of a rendering, without the empty think block."""
    parts = []
    for turn in rendered.split(START)[1:]:
        role, rest = turn.split("\n", 1)
        if role == "assistant":
            rest = rest[: rest.rindex(END) + len(END)]
            parts.append(rest.removeprefix(EMPTY_THINK) if thinks else rest)
    return "".join(parts)


def run(bench):
    for family, thinks in (("qwen2_5", False), ("qwen3", True)):
        model = random_model(bench, f"{family.replace('_5', '')}-templates", family, hidden_size=32)
        tokenizer = transformers.AutoTokenizer.from_pretrained(model)
        rng = random.Random(17)
        rows = [dialogue(rng) for _ in range(DIALOGUES)]
        file = bench.write_rows(f"templates-{family}", rows)
        shown = json.loads(bench.run("inspect", "data", file, "--model", model, "--system", "template", "--rows", DIALOGUES, "--json"))
        ours = {row["index"]: row["dialogues"][0]["tokens"] for row in shown["rows"]}
        outcomes = dict.fromkeys(["equal", "refused: the template fails", "refused: the template writes no reasoning_content", "begins with a line break"], 0)
        wrong = []
        for index, row in enumerate(rows):
            found = ours.get(index)
            try:
                rendered = tokenizer.apply_chat_template(row["messages"], tools=row.get("tools"), tokenize=False)
                ids = tokenizer(rendered, add_special_tokens=False)["input_ids"]
            except Exception:  # whatever a template raises
                rendered = None
            reasons = any("reasoning_content" in message for message in row["messages"])
            if found is None:
                if rendered is None:
                    outcomes["refused: the template fails"] += 1
                elif reasons and not thinks:
                    outcomes["refused: the template writes no reasoning_content"] += 1
                else:
                    wrong.append(f"row {index} is refused")
                continue
            tokens = [token["id"] for token in found]
            masked = tokenizer.decode([token["id"] for token in found if token["loss"]])
            if rendered is None:
                wrong.append(f"row {index} is rendered, though the template fails")
            elif leads(rendered):
                same = tokenizer.decode(tokens) == tokenizer.decode(ids)
                outcomes["begins with a line break"] += same
                wrong += [] if same else [f"row {index}: other text"]
            elif tokens == ids and masked == trained(rendered, thinks):
                outcomes["equal"] += 1
            else:
                at = next((at for at, (one, other) in enumerate(zip(tokens, ids)) if one != other), "the loss")
                wrong.append(f"row {index} differs at {at}")
        told = ", ".join(f"{what} {count}" for what, count in outcomes.items())
        check(f"{family}: {DIALOGUES} dialogues are those of apply_chat_template", not wrong and outcomes["equal"] > DIALOGUES // 4, told)
        for what in wrong[:10]:
            print(f"      {what}")
