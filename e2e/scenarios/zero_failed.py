"""The short soak: every kind of event at least once and three pairs, under a steady rate of requests, of which none may fail.
`make soak` is the long one. See e2e/soak/README.md."""

import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "soak"))
import soak  # noqa: E402
from kube import kubectl, main_exit  # noqa: E402

# One that has a bucket, and in which nobody serves.
NAMESPACE = "tenant-a"
# Not a share of the capacity: machines that test have neighbours, and requests that are late for want of a core say nothing of Millrace.
os.environ.setdefault("SOAK_RATE", "200")


def main():
    """In a namespace that is its own meanwhile: what other scenarios left there goes."""
    problems = soak.run(["--namespace", NAMESPACE])
    for kind in ("inferenceservices", "modelversions", "datasets"):
        kubectl("delete", kind, "--all", "--wait=false", namespace=NAMESPACE, check=False)
    return problems


if __name__ == "__main__":
    main_exit(main())
