"""Compares the records of `align eval tasks --preset lm-eval --out DIR` with the samples of `lm_eval run --log_samples` for the same
questions and the same model.

    harness_records.py --records DIR/model-1/mmlu.jsonl --samples 'OUT/*/samples_mmlu_*.jsonl' [--model MODEL]

Prompts, continuations, predictions and metrics must be equal, log-probabilities within 1e-4. A greedy text may differ only after a token
at which two candidates are equally probable but for rounding: with --model each such place is computed (ties.py). The exit code is 0 when
everything agrees.
"""
import argparse
import dataclasses
import glob
import json
import sys

TOLERANCE = 1e-4


@dataclasses.dataclass
class Compared:
    """What came of the samples of a task."""
    rows: int = 0
    # The largest difference of log-probabilities.
    worst: float = 0.0
    # What differs, in words.
    different: list = dataclasses.field(default_factory=list)
    # (id, prompt, our text, the harness' text)
    texts: list = dataclasses.field(default_factory=list)


def lines(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def arguments_of(sample):
    """(prompt, continuation or settings) of each request, from a file of samples or from the harness' Python interface."""
    asked = sample["arguments"]
    return [(pair["arg_0"], pair["arg_1"]) for pair in asked.values()] if isinstance(asked, dict) else asked


def compare(records, samples):
    """Records and samples, which may be those of several filters."""
    # A dialogue's prompt ends with a line break that the harness gives to the continuation.
    by_prompt = {record["prompt"].rstrip(): record for record in records}
    done, seen = Compared(), set()
    for sample in samples:
        asked = arguments_of(sample)
        record = by_prompt.get(asked[0][0].rstrip())
        if record is None:
            done.different.append(f"no record has the prompt that ends with {asked[0][0][-80:]!r}")
            continue
        is_first = record["id"] not in seen
        seen.add(record["id"])
        if isinstance(record["response"], list):
            done.worst = max(done.worst, compare_choices(record, asked, sample["resps"], done.different))
        elif record["response"] != sample["resps"][0][0]:
            # With another text, metrics may differ.
            if is_first:
                done.texts.append((record["id"], asked[0][0], record["response"], sample["resps"][0][0]))
            continue
        done.different += [f"{record['id']}: {name}" for name in metrics_that_differ(record, sample)]
    done.rows = len(seen)
    if done.worst > TOLERANCE:
        done.different.append(f"log-probabilities, by {done.worst:.1e}")
    return done


def compare_choices(record, asked, responses, different):
    """The largest difference of a log-probability; adds what differs otherwise."""
    worst = 0.0
    for index, (choice, response) in enumerate(zip(record["response"], responses, strict=True)):
        logprob, is_greedy = float(response[0][0]), str(response[0][1]) == "True"
        worst = max(worst, abs(choice["logprob"] - logprob))
        if choice["is_greedy"] != is_greedy:
            different.append(f"{record['id']}: whether choice {index} is the most probable text")
        if choice["text"] != asked[index][1]:
            different.append(f"{record['id']}: the continuation of choice {index}")
    return worst


def harness_name(name):
    """A metric by one name: the harness writes pass@1 in two ways, with and without a filter."""
    name = name.removesuffix(",none").replace("pass_at_1", "pass@1")
    return name.split(",")[0] if name.startswith("pass@1") else name


def metrics_that_differ(record, sample):
    """The metrics of a sample are those of one filter."""
    theirs = {harness_name(f"{name},{sample['filter']}"): float(sample[name]) for name in sample["metrics"] if name != "math_verify"}
    return [name for name, value in theirs.items() if name not in record["metrics"] or abs(record["metrics"][name] - value) > 1e-9]


def explained(texts, ties, say=print):
    """Whether every text parts from the other at a tie; says where each does."""
    good = True
    for identity, prompt, ours, theirs in texts:
        parting = ties.parting(prompt, ours, theirs)
        is_tie = parting is not None and parting.is_tie()
        say(f"{identity}: {'no place was found where the texts part' if parting is None else parting}{'' if is_tie else ': no tie'}")
        good &= is_tie
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", required=True, help="a file of records")
    parser.add_argument("--samples", required=True, help="the files of samples, as a pattern")
    parser.add_argument("--model", help="the model: computes the logits where texts part")
    arguments = parser.parse_args()
    samples = [sample for path in sorted(glob.glob(arguments.samples)) for sample in lines(path)]
    done = compare(lines(arguments.records), samples)
    for what in done.different:
        print(what)
    failed = bool(done.different) or not samples
    if done.texts and arguments.model:
        from ties import Ties
        failed |= not explained(done.texts, Ties(arguments.model))
    elif done.texts:
        failed = True
        print(f"texts of {', '.join(text[0] for text in done.texts)}; --model says whether at ties")
    print(f"{done.rows} rows; log-probabilities differ by at most {done.worst:.1e}; {len(done.texts)} texts differ: {'FAIL' if failed else 'PASS'}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
