"""An issuer of tokens for a scenario: an RSA key of openssl's, tokens signed by it, and its key set (JWKS) served by a pod."""

import base64
import json
import pathlib
import subprocess
import tempfile
import time

from script_pod import ScriptPod

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
        self.folder = tempfile.TemporaryDirectory()
        self.key, self.another_key = (self.make_key(file) for file in ("key.pem", "another.pem"))
        self.pod = ScriptPod(name, SERVE, PORT, self.key_set())

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
        return {"issuer": ISSUER, "audiences": [AUDIENCE], "jwksUri": f"http://{self.pod.start()}:{PORT}/keys"}

    def stop(self):
        self.pod.stop()
        self.folder.cleanup()


def openssl(*arguments, stdin=None):
    return subprocess.run(["openssl", *arguments], input=stdin, check=True, capture_output=True, timeout=60).stdout


def encoded(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
