"""The demo: the whole loop under live traffic on a real Kubernetes. `run` beside this file sets everything up and calls it."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np

import bad_models
from demands import Met, Weights, problems_of_memory
from kube import Failed, Namespace, condition, kubectl, main_exit, say, wait
from store import FEATURES, Store, digest, probabilities, split

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "flights"
sys.path.insert(0, str(EXAMPLE))
import prepare  # noqa: E402
import train  # noqa: E402

NAMESPACE = os.environ.get("DEMO_NAMESPACE", "flights")
SYSTEM = "millrace-system"
RATE = float(os.environ.get("DEMO_RATE", "120"))


class Demo:
    def __init__(self):
        self.ns, self.system = Namespace(NAMESPACE), Namespace(SYSTEM)
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="millrace-demo-"))
        self.store, self.models, self.live, self.client = None, {}, {}, None
        self.times, self.failures, self.weights, self.met, self.promoted = {}, [], Weights(), Met(), []
        self.since = time.monotonic()

    # -- looking -------------------------------------------------------------------------------------------------------

    def dataset(self):
        return self.ns.get("dataset", "flights")

    def service(self):
        return self.ns.get("inferenceservice", "flights")

    def status(self):
        return (self.service() or {}).get("status") or {}

    def tell_service(self):
        status = self.status()
        return status.get("nextStep") or condition({"status": status}, "Ready")[2]

    def ready(self, kind, name, deadline):
        look = lambda: self.ns.get(kind, name)
        return wait(f"{kind} {name} is Ready", lambda: (found := look()) and condition(found, "Ready")[0] == "True" and found, deadline,
                    lambda: " ".join(condition(look(), "Ready")[1:]))

    def from_now(self):
        """What is decided next is timed from here."""
        self.since = time.monotonic()

    def decided(self, what):
        """Takes down how long a decision took, since the one before or since what asked for it; what is decided next is timed from here."""
        self.times[f"  decision: {what}"] = time.monotonic() - self.since
        self.from_now()

    def version_of(self, job, deadline=300):
        done = self.ready("trainingjob", job, deadline)
        self.from_now()
        return done["status"]["modelVersion"]

    def approved(self, name, deadline=180):
        look = lambda: self.ns.get("modelversion", name)
        wait(f"modelversion {name} is Approved", lambda: (look() or {}).get("status", {}).get("phase") == "Approved", deadline,
             lambda: " ".join(condition(look(), "Ready")[1:]))
        self.decided(f"{name} approved, since it was registered")
        for gate in look()["status"].get("gates", []):
            say(f"    gate {gate['name']}: {gate['verdict']}: {gate['message']}")

    def stable_is(self, version, deadline=240):
        def look():
            status = self.status()
            canary = status.get("canary") or {}
            self.weights.look(canary, self.stats()["sent"])
            if any(entry["modelVersion"] == version for entry in status.get("rejected", [])):
                raise Failed(f"{version} was rejected: {status['rejected'][0]['message']}")
            return (status.get("stable") or {}).get("modelVersion") == version and not status.get("canary")
        wait(f"{version} is stable", look, deadline, self.tell_service)
        self.decided(f"{version} promoted, since its canary started")
        self.promoted.append(version)

    def canary_starts(self, version):
        def accepted():
            canary = self.status().get("canary") or {}
            return canary.get("modelVersion") == version and (canary.get("weight") or {}).get("accepted")
        wait("the canary takes requests", accepted, 120, self.tell_service)
        self.decided(f"canary of {version} started, since its approval")

    # -- traffic -------------------------------------------------------------------------------------------------------

    def know(self, version):
        """Learns the right answers of a model version for every live row; the client accepts them from then on."""
        spec = self.ns.get("modelversion", version)["spec"]
        self.models[version] = self.store.get(spec["artifact"]["uri"])
        if digest(self.models[version]) != spec["artifact"]["digest"]:
            raise Failed(f"the stored file of {version} is not the one its digest names")
        mixes = {}
        for name, rows in self.live.items():
            right = {known: probabilities(model, rows) for known, model in self.models.items() if not known.startswith("bad")}
            mixes[name] = [{"row": [float(value) for value in row], "right": {known: float(values[i]) for known, values in right.items()}}
                           for i, row in enumerate(rows)]
        self.write("rows.json", mixes)

    def write(self, name, value):
        partial = self.work / f"{name}.partial"
        partial.write_text(json.dumps(value))
        partial.rename(self.work / name)

    def control(self, **mix):
        self.write("control.json", {"mix": mix, "rate": RATE})

    def stats(self):
        return json.loads((self.work / "stats.json").read_text())

    def fresh_stats(self):
        """The client's counts, written after now."""
        file = self.work / "stats.json"
        known = file.stat().st_mtime_ns
        wait("the client has counted", lambda: file.stat().st_mtime_ns != known, 10)
        return self.stats()

    def start_traffic(self, **mix):
        address = kubectl("get", "service", "flights", "-o", "jsonpath={.spec.clusterIP}", namespace=NAMESPACE)
        self.control(**mix)
        arguments = [str(pathlib.Path(__file__).parent / "traffic.py"), f"http://{address}/v2/models/flights/infer"]
        files = [str(self.work / name) for name in ("rows.json", "control.json", "stats.json")]
        self.client = subprocess.Popen([sys.executable, *arguments, *files])
        wait("the client gets answers", lambda: (self.work / "stats.json").exists() and self.stats()["sent"] > 50, 60)

    def stop_traffic(self):
        """Ends it. One that has ended before, or does not end well, may have sent nothing for long."""
        client, self.client = self.client, None
        if not client:
            return
        ended = client.poll()
        self.write("control.json", {"mix": {"winter": 1}, "rate": RATE, "stop": True})
        try:
            code = client.wait(timeout=60)
        except subprocess.TimeoutExpired:
            client.kill()
            code = "none: it hangs"
        if ended is not None or code != 0:
            self.failures.append(f"the client that sends and counts requests broke, exit code {code}")

    # -- acts ----------------------------------------------------------------------------------------------------------

    def act(self, title, story):
        say(f"=== {title}")
        began = time.monotonic()
        try:
            story()
        except Exception as error:  # each act is told apart: the next ones would only fail for the same reason
            self.failures.append(f"{title}: {error}")
            raise
        finally:
            self.times[title] = time.monotonic() - began
        if self.client:
            if self.client.poll() is not None:
                raise Failed(f"{title}: the client that sends and counts requests has ended with {self.client.returncode}")
            stats = self.stats()
            say(f"  traffic so far: {stats['sent']} requests, {stats['failed']} failed, p50 {stats['p50_ms']} ms, p99 {stats['p99_ms']} ms")

    def first_model(self):
        tables = prepare.tables()
        for name in ("winter", "summer", "far"):
            self.live[name] = tables[f"live-{name}"][FEATURES].to_numpy(np.float32)
        self.summer = tables["summer"].to_csv(index=False).encode()
        kubectl("create", "namespace", NAMESPACE, check=False)
        kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted", "--overwrite")
        self.store = Store(self.ns)
        self.store.clear("lake/flights/")
        uri = self.store.put("lake/flights/2013-winter.csv", tables["winter"].to_csv(index=False).encode())
        say(f"  {len(tables['winter'])} flights of January and February 2013 are in {uri}")
        self.ns.apply((EXAMPLE / "dataset.yaml").read_text())
        self.first_dataset = self.ready("dataset", "flights", 180)["status"]["current"]
        say(f"  version 1: {self.first_dataset['rows']} rows, {self.first_dataset['contentDigest'][:19]}…, splits {self.first_dataset['splitRows']}")
        self.ns.apply((EXAMPLE / "trainingjob-logistic.yaml").read_text(), TRAINER_IMAGE=os.environ["TRAINER_IMAGE"])
        version = self.version_of("flights-logistic")
        self.approved(version)
        self.ns.apply((EXAMPLE / "inferenceservice.yaml").read_text())
        self.ready("inferenceservice", "flights", 180)
        self.know(version)
        self.start_traffic(winter=0.97, far=0.03)
        self.same_as_scikit_learn(version)

    def same_as_scikit_learn(self, version):
        """Trains the same pipeline here, with scikit-learn alone, and compares its answers with the served ones."""
        rows = split(self.store, self.first_dataset["uri"], "train")
        model = train.fit({"algorithm": "logistic"}, rows[FEATURES].to_numpy(np.float32), rows["late"].to_numpy(np.int64), None, None,
                          lambda *_: None)
        own = model.predict_proba(self.live["winter"])[:, 1]
        served = probabilities(self.models[version], self.live["winter"])
        worst = float(np.abs(own - served).max())
        say(f"  scikit-learn's own probabilities and those of the served model differ by at most {worst:.1e} on {len(own)} flights")
        if worst > 1e-4:
            raise Failed(f"the served model is not scikit-learn's: they differ by {worst}")

    def better_model(self):
        self.ns.apply((EXAMPLE / "trainingjob-boosting.yaml").read_text(), TRAINER_IMAGE=os.environ["TRAINER_IMAGE"])
        version = self.version_of("flights-boosting")
        self.know(version)
        self.approved(version)
        self.canary_starts(version)
        leader = self.kill_leader()
        say(f"  killing the operator's leader and a router pod: {leader}, {self.ns.delete_pod('millrace.dev/component=router')}")
        self.another_leads(leader)
        self.stable_is(version)
        self.best = version

    def kill_leader(self):
        """Kills the operator pod that holds the lease; returns its name."""
        leader = self.system.get("lease", "millrace-operator")["spec"]["holderIdentity"]
        kubectl("delete", "pod", leader, "--grace-period=0", "--force", namespace=SYSTEM)
        return leader

    def another_leads(self, former):
        holder = lambda: self.system.get("lease", "millrace-operator")["spec"].get("holderIdentity")
        wait("another operator pod leads", lambda: holder() not in (None, "", former), 120, holder)

    def bad_model(self, number, make, what, reasons):
        name, data = f"flights-{number}", make(self.models[self.best])
        uri, before = self.store.put(f"models/external/{what}.onnx", data), self.stats()
        self.ns.apply(bad_models.MANIFEST, NUMBER=number, URI=uri, DIGEST=digest(data), WHAT=what)
        self.from_now()
        self.approved(name)
        entry = wait(f"{name} ({what}) is rolled back", lambda: next(
            (entry for entry in self.status().get("rejected", []) if entry["modelVersion"] == name), None), 180, self.tell_service)
        self.decided(f"{name} ({what}) rolled back, since its approval")
        say(f"  {entry['reason']}: {entry['message']}")
        if entry["reason"] not in reasons:
            raise Failed(f"{name} was rejected for {entry['reason']}, expected {' or '.join(reasons)}")
        self.met.look(f"{name} ({what})", entry["revision"], before, self.fresh_stats())
        status = self.status()
        if status["stable"]["modelVersion"] != self.best or condition({"status": status}, "Ready")[0] != "True":
            raise Failed(f"after the rollback stable is {status['stable']['modelVersion']}, Ready {condition({'status': status}, 'Ready')}")

    def bad_models(self):
        number = int(self.best.rsplit("-", 1)[1]) + 1
        # A pod that is killed fails the requests it had in hand, too: which is enough first is chance.
        for offset, (make, what, reasons) in enumerate([
                (bad_models.fails_on_some_inputs, "fails-on-some-inputs", ["ErrorRate"]), (bad_models.slow, "slow", ["Latency"]),
                (bad_models.kills_its_pod, "kills-its-pod", ["CanaryCrashed", "CanaryUnavailable", "ErrorRate"])]):
            self.bad_model(number + offset, make, what, reasons)

    def drift(self):
        self.control(summer=0.97, far=0.03)
        self.from_now()
        say("  the traffic is now that of July")
        self.ns_drifted = wait("drift is raised", lambda: condition(self.service(), "Drifted")[0] == "True" and self.status(), 180,
                               lambda: json.dumps({k: v for k, v in (self.status().get("drift") or {}).items() if k in ("verdict", "rows", "consecutive")}))
        self.decided("drift raised, since the traffic changed")
        for feature in self.ns_drifted["drift"].get("features", [])[:3]:
            say(f"    {feature['name']}: {feature['message']}")
        retraining = wait("the retraining is skipped", lambda: (found := self.status().get("retraining") or {}).get("reason") == "NothingChanged" and found, 60,
                          lambda: (self.status().get("retraining") or {}).get("message"))
        self.decided("retraining skipped, since drift was raised")
        say(f"  {retraining['reason']}: {retraining['message']}")

    def retrain(self):
        self.store.put("lake/flights/2013-summer.csv", self.summer)
        say("  16000 labelled flights of July are in the bucket; looking for new content")
        kubectl("annotate", "dataset", "flights", f"millrace.dev/refresh={int(time.time())}", "--overwrite", namespace=NAMESPACE)
        before = self.first_dataset["contentDigest"]
        current = wait("the Dataset has a new version", lambda: (found := ((self.dataset() or {}).get("status") or {}).get("current")) and
                       found["contentDigest"] != before and found, 120)
        self.from_now()
        job = wait("a retraining runs on it", lambda: next((job for job in self.ns.list("trainingjobs")
                   if ((job.get("status") or {}).get("resolved") or {}).get("contentDigest") == current["contentDigest"]), None), 90,
                   lambda: (self.status().get("retraining") or {}).get("message"))
        self.decided("retraining started, since the Dataset has a new version")
        say(f"  {job['metadata']['name']}: {job['metadata']['annotations'].get('millrace.dev/created-because')}")
        version = self.version_of(job["metadata"]["name"])
        self.know(version)
        stable_servers = f"millrace.dev/component=server,millrace.dev/revision={self.status()['stable']['revision']}"
        self.approved(version)
        say(f"  killing a server pod of the stable revision: {self.ns.delete_pod(stable_servers)}")
        self.canary_starts(version)
        self.stable_is(version)
        gates = self.ns.get("modelversion", version)["status"]["gates"]
        champion = next(gate for gate in gates if gate["name"].endswith("vs champion"))
        say(f"  on the new test split: {champion['message']}")
        if champion["verdict"] != "Pass" or champion["interval"][0] <= 0:
            raise Failed(f"{version} does not beat the champion: {champion}")

    def summary(self):
        say("=== summary")
        if (self.work / "stats.json").exists():
            stats = self.stats()
            say(f"  requests: {stats['sent']} sent, {stats['failed']} failed {stats['failures'] or ''}; p50 {stats['p50_ms']} ms, p99 {stats['p99_ms']} ms")
            say(f"  by revision: {stats['revisions']}")
            for example in stats["examples"]:
                say(f"    {example}")
            if stats["failed"]:
                self.failures.append(f"{stats['failed']} of {stats['sent']} requests failed")
            self.failures += self.met.problems(stats)
        self.failures += self.weights.problems(self.promoted)
        for title, seconds in self.times.items():
            say(f"  {seconds:6.1f} s  {title}")
        self.failures += problems_of_memory(self.system.list("pods", "app.kubernetes.io/component=operator"))

    def run(self):
        try:
            self.act("(a) data validated, a first model trained, evaluated and served", self.first_model)
            self.act("(b) a better model rolls out by canary, while an operator and a router pod are killed", self.better_model)
            self.act("(c) three bad models that pass their gates are rolled back", self.bad_models)
            self.act("(d) traffic shifts: drift is raised, retraining on unchanged data is skipped", self.drift)
            self.act("(d, e) new labelled rows: a retraining beats the champion and is promoted, while a server pod is killed", self.retrain)
        except Exception as error:
            if not self.failures:
                self.failures.append(str(error))
        finally:
            self.stop_traffic()
            self.summary()


if __name__ == "__main__":
    demo = Demo()
    demo.run()
    main_exit(demo.failures)
