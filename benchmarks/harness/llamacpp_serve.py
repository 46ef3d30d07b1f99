"""Serves a GGUF file with llama.cpp's own HTTP server until it is ended; run by the Python of `.venvs/llamacpp`.

llamacpp_serve.py FILE NAME PORT '{"n_ctx": 2048}'
"""

import json
import signal
import sys

import xllamacpp


def main(gguf: str, name: str, port: str, settings: str) -> None:
    """Load the file and serve it as `name`."""
    asked = xllamacpp.CommonParams()
    asked.model.path, asked.model_alias, asked.port = gguf, {name}, int(port)
    asked.n_ctx, asked.n_parallel, asked.kv_unified = 2048, 4, True
    asked.cpuparams.n_threads = asked.cpuparams_batch.n_threads = 1
    asked.warmup, asked.endpoint_metrics = False, True
    for field, value in json.loads(settings).items():
        setattr(asked, field, value)
    if asked.embedding and asked.pooling_type == xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_UNSPECIFIED:
        asked.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    server = xllamacpp.Server(asked)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # llama.cpp's own handler ends its loop, and not the process
    print(server.listening_address, flush=True)
    signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
