"""The whole comparison table at full size: seconds and memory.

``python -m tests.bench.compare``: 100,000 sparse features, 2,000 documents
in 1,000 matched sets, 1,000 permutations; then the same documents with one
class a set, which doubles what is permuted.
"""

import resource
import time

import numpy as np
import pandas as pd

from helpers import compare

FEATURES, SETS, PERMUTATIONS = 100_000, 1000, 1000
RATES = 0.005, 0.5  # of documents on which a feature fires: log-uniform


def codes(rng: np.random.Generator) -> np.ndarray:
    """Document maxima [2 sets, features]: mostly zero, else gamma."""
    maxima = np.zeros((2 * SETS, FEATURES), np.float32)
    rates = np.exp(rng.uniform(*np.log(RATES), FEATURES))
    for start in range(0, FEATURES, 1000):
        c = slice(start, start + 1000)
        fires = rng.random((2 * SETS, 1000), np.float32) < rates[c]
        part = rng.standard_gamma(2.0, fires.sum(), np.float32)
        maxima[:, c][fires] = part
    return maxima


def main() -> None:
    """Time ``compare_pair`` on matched and on unmatched sets."""
    maxima = codes(np.random.default_rng(0))
    label = np.repeat(["a", "b"], SETS)
    group = {
        "matched": np.tile(np.arange(SETS), 2),
        "unmatched": np.arange(2 * SETS),
    }
    print(f"{(maxima > 0).mean():.1%} of {maxima.shape} maxima are not zero")
    for name, groups in group.items():
        documents = pd.DataFrame({"label": label, "group": groups})
        start, worked = time.perf_counter(), time.process_time()
        table = compare.compare_pair(
            maxima,
            documents,
            compare.Contrast("a", "b"),
            permutations=PERMUTATIONS,
        )
        wall = time.perf_counter() - start
        worked = time.process_time() - worked
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"{name:<10}{wall:6.1f} s wall, {worked:6.1f} s of processor, "
            f"{peak:.2f} GiB at most, {len(table):,} rows, "
            f"{(table['q'] <= 0.05).sum()} at q < 0.05"
        )


if __name__ == "__main__":
    main()
