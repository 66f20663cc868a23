"""The metric `code_eval` of lm-evaluation-harness' tasks, for where it cannot be downloaded: the share of programs (candidate,
line break, tests) that run to their end in a process of their own within the time limit."""
import subprocess
import sys

import datasets
import evaluate


class CodeEval(evaluate.Metric):
    def _info(self):
        features = datasets.Features({"predictions": datasets.Sequence(datasets.Value("string")),
                                      "references": datasets.Value("string")})
        return evaluate.MetricInfo(description=__doc__, citation="", inputs_description="", features=features)

    def _compute(self, predictions, references, k=(1,), timeout=3.0):
        passed = [[runs(candidate, tests, timeout) for candidate in candidates]
                  for candidates, tests in zip(predictions, references, strict=True)]
        if any(len(results) != 1 for results in passed) or list(k) != [1]:
            raise ValueError("one candidate for each problem and k = 1 are computed here")
        return {"pass@1": sum(results[0] for results in passed) / len(passed)}, passed


def runs(candidate, tests, timeout):
    program = f"{candidate}\n{tests}"
    try:
        done = subprocess.run([sys.executable, "-I", "-c", program], stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout)
    except (subprocess.TimeoutExpired, ValueError):
        return False
    return done.returncode == 0
