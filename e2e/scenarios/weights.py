"""At 5 %, over 4,000 requests on fresh and 4,000 on kept connections, the client's own count of x-millrace-revision lies in the 99 %
interval of the binomial distribution. Where the first count of a kind does not, a second one may, which is said in each line: a right router
fails when two counts in a row are outside, for the one kind or the other, once in some 6,200 runs (by one count each it would be once in 56). The
price is at the other end: a share of 3.5 % or 6.5 % is found in 98 of 100 runs, one of 4.2 % or 5.8 % in fewer than 30."""

import http.client
import threading

from scipy.stats import binom

from kube import Failed, kubectl, say, wait
from served import BODY, NS, address_of, approved, in_threads, status_of

REQUESTS, SHARE, THREADS = 4000, 0.05, 8


def service(version):
    return f"""
apiVersion: millrace.dev/v1alpha1
kind: InferenceService
metadata: {{name: weights}}
spec:
  model: {{modelVersion: {version}}}
  server: {{resources: {{requests: {{cpu: 50m, memory: 64Mi}}}}}}
  rollout:
    steps: [{{weight: 5, holdSeconds: 3600}}]
    analysis: {{checks: [errorRate]}}
"""


def count(address, fresh):
    """Sends the requests from several threads; returns how many each revision answered."""
    counts, lock, problems = {}, threading.Lock(), []

    def send():
        connection = http.client.HTTPConnection(address, timeout=10)
        try:
            for _ in range(REQUESTS // THREADS):
                if fresh:
                    connection.close()
                connection.request("POST", "/v2/models/weights/infer", BODY)
                response = connection.getresponse()
                response.read()
                with lock:
                    key = (response.status, response.getheader("x-millrace-revision"))
                    counts[key] = counts.get(key, 0) + 1
        except (OSError, http.client.HTTPException) as error:
            problems.append(error)

    in_threads(THREADS, send)
    if problems or any(code != 200 for code, _ in counts):
        raise Failed(f"requests failed: {problems[:3]} {counts}")
    return {revision: number for (_, revision), number in counts.items()}


def main():
    first, second = (version["metadata"]["name"] for version in approved()[:2])
    NS.apply(service(first))
    wait(f"{first} is stable", lambda: (status_of("weights").get("stable") or {}).get("modelVersion") == first and not status_of("weights").get("canary"), 120)
    NS.apply(service(second))
    wait("every router follows 5 %", lambda: ((status_of("weights").get("canary") or {}).get("weight") or {}).get("accepted") == 5, 120, lambda: status_of("weights").get("nextStep"))
    address = address_of("weights")
    canary = status_of("weights")["canary"]["revision"]
    low, high = binom.interval(0.99, REQUESTS, SHARE)
    one_is_outside = 1 - (binom.cdf(high, REQUESTS, SHARE) - binom.cdf(low - 1, REQUESTS, SHARE))
    false_alarm = 1 - (1 - one_is_outside**2) ** 2
    say(f"  99 % interval {low:.0f} to {high:.0f}, and a second count where the first is outside: a right router fails once in {1 / false_alarm:,.0f} runs")
    outside = []
    for kind in ("fresh", "kept"):
        # A right router is outside once in a hundred times: a second count tells chance from fault.
        for number in (1, 2):
            found = count(address, kind == "fresh").get(canary, 0)
            say(f"  count {number} of at most 2: {found} of {REQUESTS} on {kind} connections went to the canary: {100 * found / REQUESTS:.2f} %; "
                f"99 % interval {low:.0f} to {high:.0f}")
            if low <= found <= high:
                break
        else:
            outside.append(kind)
    kubectl("delete", "inferenceservice", "weights", "--wait=false", namespace=NS.name)
    if outside:
        raise Failed(f"outside the interval: {outside}")


if __name__ == "__main__":
    main()
