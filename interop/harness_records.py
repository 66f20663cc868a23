"""Compares the records of `align eval tasks --preset lm-eval --out DIR` with the samples of `lm_eval run --log_samples` for the same
questions and the same model.

    harness_records.py --records DIR/model-1/mmlu.jsonl --samples 'OUT/*/samples_mmlu_*.jsonl'

Prompts, continuations, predictions and metrics must be equal, log-probabilities within 1e-4. A greedy text may differ after a position at
which two tokens are equally probable but for rounding; such rows are counted, and at most --ties of them are accepted. The exit code is 0
when everything agrees.
"""
import argparse
import glob
import json
import sys


def lines(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def compare_choices(record, sample):
    """The largest difference of a log-probability, and what differs otherwise."""
    worst, different = 0.0, []
    for index, (choice, response) in enumerate(zip(record["response"], sample["resps"], strict=True)):
        logprob, is_greedy = float(response[0][0]), str(response[0][1]) == "True"
        worst = max(worst, abs(choice["logprob"] - logprob))
        if choice["is_greedy"] != is_greedy:
            different.append(f"choice {index}: is_greedy")
        if choice["text"] != sample["arguments"][f"gen_args_{index}"]["arg_1"]:
            different.append(f"choice {index}: the continuation")
    return worst, different


def metrics_that_differ(record, sample):
    names = {name: value for name, value in record["metrics"].items() if "," not in name or name.endswith("," + sample["filter"])}
    names = {name.split(",")[0].replace("@", "_at_"): value for name, value in names.items()}
    return [name for name in sample["metrics"] if name in names and abs(names[name] - float(sample[name])) > 1e-9]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", required=True, help="a file of records")
    parser.add_argument("--samples", required=True, help="the files of samples, as a pattern")
    parser.add_argument("--ties", type=float, default=0.05, help="the share of texts that may differ")
    arguments = parser.parse_args()
    # A dialogue's prompt ends with a line break that the harness gives to the continuation.
    records = {record["prompt"].rstrip(): record for record in lines(arguments.records)}
    samples = [sample for path in sorted(glob.glob(arguments.samples)) for sample in lines(path)]
    worst, texts, failed = 0.0, 0, not samples
    for sample in samples:
        prompt = sample["arguments"]["gen_args_0"]["arg_0"]
        record = records.get(prompt.rstrip())
        if record is None:
            print(f"no record has the prompt that ends with {prompt[-80:]!r}")
            failed = True
            continue
        if isinstance(record["response"], list):
            difference, different = compare_choices(record, sample)
            worst = max(worst, difference)
        else:
            different = []
            # With another text, metrics may differ.
            if record["response"] != sample["resps"][0][0]:
                texts += 1
                continue
        different += metrics_that_differ(record, sample)
        if different:
            print(f"{record['id']}: {', '.join(different)}")
            failed = True
    failed |= worst > 1e-4 or texts > arguments.ties * len(samples)
    print(f"{len(samples)} samples; log-probabilities differ by at most {worst:.1e}; {texts} texts differ: {'FAIL' if failed else 'equal'}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
