"""A process with one version of the bindings: reads calls from stdin and answers on stdout, one JSON line each."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import traceback

from tests.fake_trt.library import load


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a function prints must not mix with the answers
    load(sys.argv[1], sys.argv[2])
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with it ignored
    for line in sys.stdin:
        request = json.loads(line)
        try:
            function = getattr(importlib.import_module(request["module"]), request["function"])
            answer = json.dumps({"result": function(*request["arguments"])})
        except BaseException:
            answer = json.dumps({"error": traceback.format_exc()})
        answers.write(answer + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
