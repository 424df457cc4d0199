"""Bad input, each ending in a clear condition that names what is wrong and what helps; then the remedy, and it heals. Nothing downstream starts,
nothing earlier is lost. A namespace without a store is among it; and what heals from a bad Parquet file becomes the very version that the same
rows make as CSV."""

import os
import pathlib
import subprocess
import time

from small_objects import (COLUMN, TRAINER, as_parquet, dataset, disconnected_model, good_model, good_trainer, job, nan_model, priority_class, rows,
                           secret, service, two_inputs_model, version)
from kube import Failed, Namespace, condition, kubectl, say, wait
from store import Store, digest

NS, OTHER, STORELESS = Namespace("bad-input"), Namespace("tenant-b"), Namespace("storeless")
CLUSTER = pathlib.Path(__file__).resolve().parents[1] / "cluster"
IS_LOCAL = os.environ.get("CLUSTER", "local") != "current"
# Datasets whose file is bad, each in a folder of its name.
REPLACED = ("malformed", "empty", "mismatch")
MALFORMED = f"id,{COLUMN},late\nr1,0.5,1\nr2,0.5\nr3,0.5,1,9,9\n".encode()
LATE_IMAGE = "localhost/millrace/late:1"
LATE_CLASS = "millrace-late"


def ready(kind, name, namespace=NS):
    return condition(namespace.get(kind, name), "Ready")


def ends_in(kind, name, expected, words, deadline=180, namespace=NS):
    """Waits until Ready is False with this reason and all the words in its message."""
    def look():
        status, reason, message = ready(kind, name, namespace)
        return status == "False" and reason == expected and all(word in message for word in words) and message
    message = wait(f"{kind} {name}", look, deadline, lambda: " ".join(ready(kind, name, namespace)))
    say(f"    {expected}: {message}")


def heals(kind, name, deadline=300, namespace=NS):
    """Whoever tries again does so after as long as it has been bad, which on a slow machine is minutes: the kubelet after up to five."""
    wait(f"{kind} {name} heals", lambda: ready(kind, name, namespace)[0] == "True", deadline, lambda: " ".join(ready(kind, name, namespace)))


def refresh(name):
    kubectl("annotate", "dataset", name, f"millrace.dev/refresh={time.time_ns()}", "--overwrite", namespace=NS.name)


def current(name):
    return ((NS.get("dataset", name) or {}).get("status") or {}).get("current")


# -- what lies outside of Kubernetes: buckets of the embedded store, images of the local node ----------------------------------------------------


def bucket(command, name):
    """Makes or deletes a bucket, as whoever runs the store does."""
    shell = f'echo "s3.bucket.{command} -name {name}" | /usr/bin/weed shell -master=127.0.0.1:9333 -filer=127.0.0.1:8888'
    # What became of it shows in what is read there.
    kubectl("exec", "deployment/millrace-store", "-c", "buckets", "--", "/bin/sh", "-c", shell, namespace="millrace-system", check=False)


def image(*command):
    subprocess.run(["bash", "-c", f'. "{CLUSTER}/lib/all.sh"; containerd_images "$@"', "image", *command], check=True, stdout=subprocess.DEVNULL, timeout=60)


# -- what is bad: all of it first, so that everything is at work while one condition after another is awaited ----------------------------------


def bad_datasets(store):
    blocked = f"expectations: [{{name: column_values_to_be_between, column: {COLUMN}, min: 0, max: 10}}]"
    store.put("malformed/a.csv", MALFORMED)
    store.put("empty/a.csv", b"")
    store.put("mismatch/a.csv", b"id,z,late\nr1,0.5,1\n")
    store.put("blocked/a.csv", rows())
    store.put("overwritten/a.csv", MALFORMED)
    refresh("overwritten")
    store.put("parquet/a.parquet", b"PAR1" + rows())
    NS.apply(dataset("parquet", "parquet/", file_format="Parquet"), dataset("missing", "nothing/"), dataset("forbidden", "data/", bucket="millrace-tenant-a"),
             dataset("secretless", "good/", secret="lake"), dataset("blocked", "blocked/", extra=blocked), *(dataset(name, f"{name}/") for name in REPLACED))
    kubectl("create", "namespace", STORELESS.name, check=False)
    STORELESS.apply(dataset("storeless", "good/"))
    if IS_LOCAL:
        NS.apply(secret("other-lake", OTHER.get("secret", "millrace-store")["data"]))
        bucket("delete", "millrace-tenant-b")
        NS.apply(dataset("bucketless", "late/", secret="other-lake", bucket="millrace-tenant-b"))


def bad_jobs():
    late_image = [job("late-image", "good", good_trainer(LATE_IMAGE), "healed")] if IS_LOCAL else []
    NS.apply(job("no-dataset", "later", good_trainer(), "healed"), job("no-image", "good", "{image: localhost/there-is-none:1}", "healed"),
             job("no-model", "good", f"{{image: {TRAINER}, args: ['-c', 'print(1)']}}"), job("too-many-gpus", "good", f"{{image: {TRAINER}, gpu: {{count: 16}}}}"),
             job("no-class", "good", good_trainer(scheduling={"priorityClassName": LATE_CLASS}), "healed"), *late_image)


def bad_versions(store):
    nan = nan_model()
    truncated = nan[: len(nan) // 2]
    wrong = {2: ("truncated", truncated), 4: ("nan", nan), 5: ("two-inputs", two_inputs_model()), 6: ("disconnected", disconnected_model())}
    NS.apply(*(version(number, store.put(f"models/{name}.onnx", model), digest(model)) for number, (name, model) in wrong.items()),
             version(1, "s3://millrace-bad-input/models/nan.onnx", digest(b"another file")),
             version(3, "s3://millrace-bad-input/models/none.onnx", digest(good_model())))


def bad_services():
    NS.apply(service("follows", "{name: latecomer}"), service("pinned", "{modelVersion: latecomer-1}"))


# -- what is said of it ------------------------------------------------------------------------------------------------------------------------


def of_datasets(before):
    say("datasets")
    ends_in("dataset", "missing", "SourceNotFound", ["millrace-bad-input/nothing", "put the data there"])
    ends_in("dataset", "forbidden", "AccessDenied", ["millrace-tenant-a", "check the credentials"])
    ends_in("dataset", "secretless", "SecretNotFound", ["lake", "create it in this namespace"])
    ends_in("dataset", "storeless", "SecretNotFound", ['"millrace-store" not found', "create it in this namespace"], namespace=STORELESS)
    ends_in("dataset", "malformed", "MalformedSource", ["a.csv", "line 3"])
    ends_in("dataset", "parquet", "MalformedSource", ["a.parquet can't be read as Parquet"])
    ends_in("dataset", "empty", "EmptySource", ["a.csv", "write it again"])
    ends_in("dataset", "mismatch", "SchemaMismatch", [COLUMN, "which has: id, z, late", "correct schema.fields or the data"])
    ends_in("dataset", "blocked", "ExpectationsFailed", ["column_values_to_be_between", COLUMN, "of 400 (as ", "Correct the data"])
    if IS_LOCAL:
        ends_in("dataset", "bucketless", "SourceNotFound", ["millrace-tenant-b", "put"])
    ends_in("dataset", "overwritten", "MalformedSource", ["a.csv", "line 3"])
    if current("overwritten") != before:
        raise Failed(f"bad content replaced the version that was current: {before} -> {current('overwritten')}")


def of_jobs():
    say("training jobs")
    ends_in("trainingjob", "no-dataset", "DatasetNotFound", ["later", "create it"])
    ends_in("trainingjob", "no-image", "ImagePullFailed", ["there-is-none", "correct its name"])
    ends_in("trainingjob", "too-many-gpus", "Unschedulable", ["16 nvidia.com/gpu", "add a node"])
    ends_in("trainingjob", "no-class", "PodRefused", ["PriorityClass", "kubectl describe job"])
    ends_in("trainingjob", "no-model", "TrainerLeftNoModel", ["write /millrace/output/model.onnx"])
    if IS_LOCAL:
        ends_in("trainingjob", "late-image", "ImagePullFailed", [LATE_IMAGE, "push it"])
    without = ("no-model", "too-many-gpus")
    made = [made["metadata"]["name"] for made in NS.list("modelversions") if made["spec"]["source"].get("trainingJob", {}).get("name") in without]
    if made or (NS.get("trainingjob", "no-model")["status"].get("modelVersion")):
        raise Failed(f"a job without a model registered {made}, or names one")


def of_versions():
    say("model versions")
    ends_in("modelversion", "bad-1", "DigestMismatch", ["nan.onnx", digest(b"another file"), "new version"])
    ends_in("modelversion", "bad-2", "InvalidModel", ["not a whole ONNX model"])
    ends_in("modelversion", "bad-3", "SourceNotFound", ["none.onnx", "put it there"])
    ends_in("modelversion", "bad-4", "EvaluationFailed", ["NaN", "missing values"])
    ends_in("modelversion", "bad-5", "SignatureAmbiguous", ["first", "second", "spec.signature", '"tensor"'])
    ends_in("modelversion", "bad-6", "InvalidModel", ["not a whole ONNX model"])


def of_services():
    say("inference services")
    ends_in("inferenceservice", "follows", "NoApprovedVersion", ["latecomer", "train one"])
    ends_in("inferenceservice", "pinned", "ModelVersionNotFound", ["latecomer-1", "create it"])


# -- and the remedies --------------------------------------------------------------------------------------------------------------------------


def mend_datasets(store):
    """What lay there badly is replaced, and looked at again; the others go on by themselves."""
    for name in (*REPLACED, "overwritten"):
        store.put(f"{name}/a.csv", rows())
        refresh(name)
    # The bad file last: a run in between must not find half of the rows and be content.
    for name, data in zip("ba", as_parquet(rows())):
        store.put(f"parquet/{name}.parquet", data)
    refresh("parquet")
    store.put("nothing/a.csv", rows())
    own = NS.get("secret", "millrace-store")["data"]
    NS.apply(secret("lake", own))
    STORELESS.apply(secret("millrace-store", own, is_store=True))
    NS.apply(dataset("forbidden", "good/"))
    NS.apply(dataset("blocked", "blocked/"))
    if IS_LOCAL:
        bucket("create", "millrace-tenant-b")
        Store(OTHER).put("late/a.csv", rows())


def mend_jobs():
    """The Dataset, a PriorityClass and an image appear. A job that has started is not changed, but made anew."""
    NS.apply(dataset("later", "good/"))
    NS.apply(priority_class(LATE_CLASS))
    if IS_LOCAL:
        image("tag", "--force", TRAINER, LATE_IMAGE)
    corrected = job("no-image", "good", good_trainer(), "healed")
    try:
        NS.apply(corrected)
    except Failed as error:
        if "make a new TrainingJob" not in str(error):
            raise
        say("  refused: another image for a job that has started")
    else:
        raise Failed("the image of a job that has started could be changed, expected a refusal that asks for a new TrainingJob")
    kubectl("delete", "trainingjob", "no-image", namespace=NS.name)
    NS.apply(corrected)


def mend_models(store):
    uri = store.put("models/none.onnx", good_model())
    NS.apply(version(1, uri, digest(good_model()), "latecomer"))


def all_heal(before):
    say("each heals")
    late = ("bucketless",) if IS_LOCAL else ()
    for name in ("missing", "forbidden", "secretless", "blocked", "overwritten", "parquet", *REPLACED, *late):
        heals("dataset", name)
    heals("dataset", "storeless", namespace=STORELESS)
    for name in ("no-dataset", "no-image", "no-class", *(("late-image",) if IS_LOCAL else ())):
        heals("trainingjob", name, 400)
    heals("modelversion", "bad-3")
    for name in ("follows", "pinned"):
        heals("inferenceservice", name)
    if ready("dataset", "good")[0] != "True" or current("overwritten") != before:
        raise Failed(f"something earlier was lost: {ready('dataset', 'good')}, {before} -> {current('overwritten')}")
    same_as_csv()


def same_as_csv():
    """Two files in another order and another format hold what the CSV of `good` does: the same version, down to the stored bytes."""
    what = ("contentDigest", "manifestDigest", "rows", "splitRows")
    csv, parquet = ({key: current(name)[key] for key in what} for name in ("good", "parquet"))
    if csv != parquet:
        raise Failed(f"the same rows are another version as Parquet: {parquet}, as CSV {csv}")
    say(f"  as Parquet and as CSV they are the same version: {csv['rows']} rows, {csv['contentDigest'][:19]}…")


def tidy():
    kubectl("delete", "priorityclass", LATE_CLASS, "--ignore-not-found")
    kubectl("delete", "inferenceservice", "follows", "pinned", "--wait=false", "--ignore-not-found", namespace=NS.name)
    kubectl("delete", "namespace", STORELESS.name, "--wait=false", "--ignore-not-found")
    if IS_LOCAL:
        # Whatever failed: the bucket is another scenario's, and an image that is there would not be missing the next time.
        bucket("create", "millrace-tenant-b")
        kubectl("delete", "trainingjob", "late-image", "--ignore-not-found", namespace=NS.name)
        subprocess.run(["bash", "-c", f'. "{CLUSTER}/lib/all.sh"; containerd_images rm "$1"', "image", LATE_IMAGE], check=False, timeout=60)


def main():
    store = Store(NS)
    first = ("good", "overwritten")
    for name in first:
        store.put(f"{name}/a.csv", rows())
    NS.apply(*(dataset(name, f"{name}/") for name in first))
    for name in first:
        # An earlier run may have left something bad there.
        refresh(name)
    for name in first:
        heals("dataset", name)
    before = current("overwritten")
    try:
        bad_datasets(store)
        bad_jobs()
        bad_versions(store)
        bad_services()
        # Each is mended once it was told: what stays bad for longer is tried again ever later, by the operator, Job controller and kubelet alike.
        of_datasets(before)
        mend_datasets(store)
        of_jobs()
        mend_jobs()
        of_versions()
        of_services()
        mend_models(store)
        all_heal(before)
    finally:
        tidy()


if __name__ == "__main__":
    main()
