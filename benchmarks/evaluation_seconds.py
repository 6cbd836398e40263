"""Seconds that 05_evaluation takes of the default setup, from recorded responses and with nothing else running."""

import time

from benchmarks.runs import execute, made
from kanlib import claims

SETUP = "digits_resnet18"
COMMAND = claims.Command("python -m benchmarks.evaluation_seconds", device="2 CPU cores")


def main() -> None:
    made(SETUP, "surrogates")
    start = time.perf_counter()
    execute("05_evaluation", SETUP, "evaluation_seconds")
    words = f"Seconds that 05_evaluation takes: every method in every regime of masks, of {SETUP}"
    claims.record(
        [COMMAND.claim("evaluation.aggregate_seconds", words, time.perf_counter() - start, "<= 120", aim=True)]
    )


if __name__ == "__main__":
    main()
