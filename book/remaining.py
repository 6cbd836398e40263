"""How far the shards of a setup are, and when the last of them will be done."""

import json
import time

from kanlib import setups, shards, sources, store
from kanlib.setups import OfExamples, Perturbation


def remaining(setup: str, n_shards: int) -> str:
    """A sentence: shards that are there, of how many, and the minutes that the others take.

    Each stage's missing shards take the mean seconds of those that are there, and as many are computed at a time
    as were since the run began. Of a stage without one that is there nothing is known.
    """
    p = Perturbation.from_setup(setup)
    names = shards.plan(p.n_asked, p.block, n_shards)
    lock, now = store.ARTIFACTS / ".lock", time.time()
    began = lock.stat().st_mtime if lock.exists() else now
    done, left, spent, unknown = 0, 0.0, 0.0, []
    notebooks = [
        n for n in sources.notebooks(store.NOTEBOOKS) if issubclass(setups.of_notebook(n.stem), OfExamples)
    ]
    for notebook in notebooks:
        kind = sources.artifacts(notebook)[1][0]
        files = [store.circumstances(store.path(setups.shard_folder(setup, name), kind)) for name in names]
        there = [file for file in files if file.exists()]
        seconds = [json.loads(file.read_text(encoding="utf8"))["seconds"] for file in there]
        done += len(there)
        spent += sum(s for s, file in zip(seconds, there, strict=True) if file.stat().st_mtime >= began)
        if there:
            left += (len(names) - len(there)) * sum(seconds) / len(there)
        else:
            unknown.append(notebook.stem)
    at_a_time = max(1.0, spent / max(1.0, now - began))
    first = f"{setup}: {done} of {len(names) * len(notebooks)} shards are there"
    if done == len(names) * len(notebooks):
        return f"{first}."
    rest = f"those of {', '.join(unknown)} have not begun" if unknown else ""
    others = f"the others take some {left / at_a_time / 60:.0f} minutes" if left else ""
    return "; ".join(filter(None, [first, others, rest])) + "."
