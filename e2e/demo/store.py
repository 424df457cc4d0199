"""The namespace's object store as its Secret opens it, and models as ONNX Runtime answers them."""

import base64
import hashlib
import io
import json

import boto3
import botocore.config
import numpy as np
import onnxruntime
import pandas as pd

from kube import kubectl

FEATURES = ["dep_delay", "distance", "hour", "weekday", "temp", "humid", "wind_speed", "precip", "visib"]


class Store:
    """Reached at the cluster address of the embedded store: names inside the cluster do not resolve outside of it."""

    def __init__(self, namespace):
        address = kubectl("get", "service", "millrace-store", "-o", "jsonpath={.spec.clusterIP}", namespace="millrace-system")
        data = namespace.get("secret", "millrace-store")["data"]
        value = {key: base64.b64decode(text).decode() for key, text in data.items()}
        self.bucket = value["url"].removeprefix("s3://").split("/")[0]
        self.client = boto3.client(
            "s3",
            endpoint_url=f"http://{address}:8333",
            region_name=value["AWS_REGION"],
            aws_access_key_id=value["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=value["AWS_SECRET_ACCESS_KEY"],
            config=botocore.config.Config(
                connect_timeout=5, read_timeout=30, retries={"max_attempts": 5},
                request_checksum_calculation="when_required", response_checksum_validation="when_required",
            ),
        )

    def put(self, key, data):
        self.client.put_object(Bucket=self.bucket, Key=key, Body=data)
        return f"s3://{self.bucket}/{key}"

    def keys(self, prefix):
        """Of all objects beneath a prefix."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    def clear(self, prefix):
        """Removes what an earlier run left beneath a prefix."""
        for key in self.keys(prefix):
            self.client.delete_object(Bucket=self.bucket, Key=key)

    def get(self, uri):
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        return self.client.get_object(Bucket=bucket, Key=key)["Body"].read()


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def split(store, version_uri, name):
    """Rows of one split of a dataset version."""
    manifest = json.loads(store.get(f"{version_uri.rstrip('/')}/manifest.json"))
    parts = [pd.read_parquet(io.BytesIO(store.get(f"{version_uri.rstrip('/')}/{part['path']}"))) for part in manifest["parts"][name]]
    return pd.concat(parts)


def probabilities(model, rows):
    """Probability of being late for each row, by ONNX Runtime in this process."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(["probabilities"], {session.get_inputs()[0].name: np.asarray(rows, dtype=np.float32)})[0][:, 1]
