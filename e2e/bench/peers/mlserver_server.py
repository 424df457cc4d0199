"""MLServer over a model repository: mlserver_server.py FOLDER HTTP_PORT GRPC_PORT. Writes MLServer's settings beside nothing of ours."""

import asyncio
import json
import sys
import tempfile
from pathlib import Path

from mlserver import MLServer, ModelSettings, Settings

here = str(Path(__file__).parent)
sys.path.insert(0, here)
from onnx_models import OnnxModel, repository  # noqa: E402


def write(folder, home):
    versions = {}
    for name, version, _ in repository(folder):
        versions.setdefault(name, []).append(version)
    for name, version, path in repository(folder):
        try:
            OnnxModel(path)
        except Exception as error:
            print(f"{name} is not served: {error}", file=sys.stderr)
            continue
        place = Path(home) / f"{name}-{version}"
        place.mkdir()
        settings = {
            "name": name,
            "versions": versions[name],
            "platform": "onnxruntime_onnx",
            "implementation": "mlserver_models.Onnx",
            "parameters": {"uri": str(path.resolve()), "version": version},
        }
        (place / "model-settings.json").write_text(json.dumps(settings))


async def serve(folder, http, grpc):
    with tempfile.TemporaryDirectory(prefix="mlserver-") as home:
        write(folder, home)
        settings = Settings(
            host="127.0.0.1", http_port=int(http), grpc_port=int(grpc), metrics_endpoint=None, parallel_workers=0, debug=False,
            model_repository_root=home, use_structured_logging=True,
        )
        models = [ModelSettings.parse_file(str(p)) for p in sorted(Path(home).glob("*/model-settings.json"))]
        await MLServer(settings).start(models)


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
