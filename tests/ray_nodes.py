"""Stand-ins for a Ray cluster: this process, and Ray's own test cluster on this machine."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


class Inline:
    """A cluster that is this process; parts and results are pickled as they are there."""

    cpus, gpus, num_slots = 1, 0, 3

    def map_merge(self, task, parts, merge, done, should_stop=lambda: False):
        results = []
        for index, one in enumerate(parts):
            if should_stop():
                if not results:
                    raise KeyboardInterrupt
                break
            results.append(pickle.loads(pickle.dumps(task(pickle.loads(pickle.dumps(one))))))
            done(index)
        while len(results) > 1:
            results.append(merge(results.pop(), results.pop(0)))
        return results[0]


@contextmanager
def started_nodes(count: int) -> Iterator[object]:
    """Nodes of one CPU each, as processes of this machine."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_raylet_start_wait_time_s", "180")  # other tests keep the processor busy
        found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        for _ in range(count - 1):
            found.add_node(num_cpus=1)
        try:
            yield found
        finally:
            found.shutdown()
