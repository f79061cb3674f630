"""Exact full ranking of a large catalogue: time and memory of `top_k` and `rank_of`.

    python benchmarks/full_ranking.py                        # 100 000 users x 1 000 000 items
    python benchmarks/full_ranking.py --users 1000 --rank    # fewer, and the places of single items

Users come in batches, as in an evaluation; items stay in memory. The peak is that of the whole process, torch included.
"""

from __future__ import annotations

import argparse
import json
import resource
import time

import torch

from paddlerec.layers import rank_of, top_k


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--seen", type=int, default=100, help="items that each user had before")
    parser.add_argument("--batch", type=int, default=1024, help="users of a batch")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rank", action="store_true", help="places of one item a user, instead of the k best")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    items = torch.randn(1 + options.items, options.dim)
    started, clock = time.perf_counter(), time.process_time()
    for first in range(0, options.users, options.batch):
        count = min(options.batch, options.users - first)
        queries = torch.randn(count, options.dim)
        seen = torch.randint(0, 1 + options.items, (count, options.seen))
        if options.rank:
            rank_of(queries, items, torch.randint(1, 1 + options.items, (count,)), seen=seen)
        else:
            _, ids = top_k(queries, items, options.k, seen=seen)
            assert (ids > 0).all()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    spent = time.process_time() - clock
    result = {
        **vars(options),
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(spent, 1),
        "users_per_cpu_second": round(options.users / spent, 1),
        "peak_gb": round(peak, 2),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
