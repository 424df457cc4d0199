"""An issuer of tokens for a scenario: an RSA key of openssl's, tokens signed by it, and its key set (JWKS) served by a pod."""

import base64
import json
import os
import pathlib
import subprocess
import tempfile
import time

from kube import condition, kubectl, wait
from served import NS

ISSUER, AUDIENCE = "https://issuer.scenarios", "models"
KEY_ID, PORT = "scenario-1", 8000

# Answers everybody with the key set that follows.
SERVE = """
import http.server, sys
class Keys(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(sys.argv[2].encode())
http.server.ThreadingHTTPServer(("0.0.0.0", int(sys.argv[1])), Keys).serve_forever()
"""


class Issuer:
    """Its pod is there from `start` to `stop`."""

    def __init__(self, name):
        self.name = name
        self.folder = tempfile.TemporaryDirectory()
        self.key, self.another_key = (self.make_key(file) for file in ("key.pem", "another.pem"))

    def make_key(self, file):
        path = str(pathlib.Path(self.folder.name) / file)
        openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", path)
        return path

    def token(self, key=None, **claims):
        """Valid for an hour, unless the claims or another key make it another one."""
        header = {"alg": "RS256", "typ": "JWT", "kid": KEY_ID}
        payload = {"iss": ISSUER, "aud": AUDIENCE, "sub": "a scenario", "exp": int(time.time()) + 3600, **claims}
        signed = ".".join(encoded(json.dumps(part).encode()) for part in (header, payload))
        return f"{signed}.{encoded(openssl('dgst', '-sha256', '-sign', key or self.key, stdin=signed.encode()))}"

    def key_set(self):
        modulus = openssl("rsa", "-in", self.key, "-noout", "-modulus").decode().strip().removeprefix("Modulus=")
        exponent = (65537).to_bytes(3, "big")
        key = {"kty": "RSA", "kid": KEY_ID, "alg": "RS256", "use": "sig", "n": encoded(bytes.fromhex(modulus)), "e": encoded(exponent)}
        return json.dumps({"keys": [key]})

    def start(self):
        """Returns `auth.jwt` for those who trust it."""
        kubectl("delete", "pod", self.name, "--ignore-not-found", namespace=NS.name)
        NS.apply(json.dumps(self.pod()))
        pod = lambda: NS.get("pod", self.name)
        wait("the issuer of tokens is ready", lambda: condition(pod(), "Ready")[0] == "True", 120, lambda: " ".join(condition(pod(), "Ready")))
        return {"issuer": ISSUER, "audiences": [AUDIENCE], "jwksUri": f"http://{pod()['status']['podIP']}:{PORT}/keys"}

    def pod(self):
        container = {"name": "keys", "image": os.environ["TRAINER_IMAGE"], "imagePullPolicy": "IfNotPresent",
                     "command": ["python3", "-c", SERVE, str(PORT), self.key_set()], "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
                     "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}}
        security = {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": self.name}, "spec": {
            "automountServiceAccountToken": False, "terminationGracePeriodSeconds": 1, "securityContext": security, "containers": [container]}}

    def stop(self):
        kubectl("delete", "pod", self.name, "--ignore-not-found", "--wait=false", namespace=NS.name, check=False)
        self.folder.cleanup()


def openssl(*arguments, stdin=None):
    return subprocess.run(["openssl", *arguments], input=stdin, check=True, capture_output=True, timeout=60).stdout


def encoded(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
