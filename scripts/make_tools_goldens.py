#!/usr/bin/env python3
"""Records JSON5 texts as Python reads and writes them, and Rouge-L of sequences of tokens.

    pip install json5==0.17.3 rouge-score==0.1.2
    python3 scripts/make_tools_goldens.py > tests/golden/evaluation/tools_python.json
"""

import json
import random

import json5
from rouge_score import rouge_scorer

TEXTS = [
    "{'a': 1,}", '{"b": 1, "a": {"d": 2, "c": [1, 2]}}', "0x1F", "-0x1f", "+5", "-.5", "5.", "1e5", "1E400", "NaN",
    "-Infinity", "'a\\\nb'", "{a:1,a:2}", '{"a":1}//c', '"\\x41\\u00e9\\v\\0"', "'\\q'", "[1,,2]", "[,]", "{}x", "", "  ",
    "{'a' 1}", '"a\nb"', '{"a": "tab\there"}', "01", "{\u4e2d: 1}", "{while:1, $a_: 2}", "'a\u2028b'", "\ufeff{}", "-0",
    "-0.0", "[1,2,]", "null", "undefined", "{1: 2}", "/*x*/ 1 /*y*/", "/* open", "1_000", "{'k': True}", "0.1e-7",
    "123456789.123456789", "\u00a01", '{"a":"\\/"}', "not json", "```py\nprint(1)\n```", "{'é': 'ü', \"z\": '\"'}",
    "{\"query\": \"五彩斑斓的黑\"}", "[[[[[[[[1]]]]]]]]", "{\"a\": 1e16, \"b\": 1e15, \"c\": 0.0001, \"d\": 0.00001}",
    "{\"a\": 18446744073709551615}", "true", "'it\\'s'", "{\"a\": null, \"B\": false}", "{\"a\" : 1 /* c */ , }", "5 Final Answer: x",
    "{\"a\": \"\\u001f\\u007f\\b\\f\\r\"}", "{\"a\"\r\n:\r\n1}", "'🎉'", "{'a':1} {'b':2}", "{", "[1", "'a", "\"\\u12\"",
]


def written(text):
    """`json.dumps` with sorted keys; nothing where the text is not JSON5."""
    try:
        return json.dumps(json5.loads(text), ensure_ascii=False, sort_keys=True)
    except ValueError:
        return None


class Words:
    """A tokenizer that splits at white space."""

    def tokenize(self, text):
        return text.split()


def main():
    random.seed(7)
    scorer = rouge_scorer.RougeScorer(["rougeL"], tokenizer=Words())
    words = ['{"', "query", '":', '"', "黑", "周", "two", "}", "1", "�", "a"]
    pairs = []
    for length in range(24):
        reference = random.choices(words, k=length)
        response = random.choices(words, k=random.randint(0, 24))
        if length % 3 == 0:  # nearly equal
            response = [word for word in reference if random.random() < 0.8] + ["end"]
        score = scorer.score(" ".join(reference), " ".join(response))["rougeL"]
        pairs.append({"reference": reference, "response": response, "fmeasure": score.fmeasure})
    cases = [{"text": text, "written": written(text)} for text in TEXTS]
    print(json.dumps({"json5": cases, "rouge_l": pairs}, ensure_ascii=False, indent=1))


if __name__ == "__main__":
    main()
