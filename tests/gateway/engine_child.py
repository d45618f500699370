"""Starts one real engine for the gateway's tests: `python engine_child.py MODEL SOCKET SECRET`. Ends with its stdin."""

from __future__ import annotations

import sys

import xllamacpp


def main() -> None:
    model, socket, secret = sys.argv[1:4]
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.model_alias = {"chat"}
    params.hostnames = [socket]
    params.port = 0
    params.n_ctx = 4096
    params.n_parallel = 4
    params.warmup = False
    params.fit_params = False
    params.kv_unified = True
    params.cache_ram_mib = 16
    params.endpoint_metrics = True
    params.endpoint_slots = True
    params.api_keys = [secret]
    params.cpuparams.n_threads = 2
    params.verbosity = -1
    params.ui = False
    params.n_threads_http = 8
    if len(sys.argv) > 4 and sys.argv[4] == "embeddings":
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    server = xllamacpp.Server(params)
    print("ready", flush=True)
    sys.stdin.read()  # the parent's end closes when it ends, however it ends
    del server


if __name__ == "__main__":
    main()
