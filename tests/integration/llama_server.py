"""Stands for an operator's own `llama-server`: takes its arguments, runs the same engine from the wheel.

Tests make it executable. It is a program like any other to Bastide: started by path, asked for its health.
"""

from __future__ import annotations

import argparse
import os
import signal

import xllamacpp

parser = argparse.ArgumentParser()
for option in ("--model", "--alias", "--host", "--slot-save-path", "--fit"):
    parser.add_argument(option)
for option in ("--ctx-size", "--parallel", "--threads", "--threads-http", "--cache-ram"):
    parser.add_argument(option, type=int)
for option in ("--kv-unified", "--no-warmup", "--metrics", "--slots", "--no-webui", "--jinja", "--embeddings"):
    parser.add_argument(option, action="store_true")
asked = parser.parse_args()

parameters = xllamacpp.CommonParams()
parameters.model.path = asked.model
parameters.model_alias = {asked.alias}
parameters.hostnames = [asked.host]
parameters.port = 0
parameters.api_keys = [os.environ["LLAMA_API_KEY"]]
parameters.n_ctx, parameters.n_parallel, parameters.kv_unified = asked.ctx_size, asked.parallel, True
parameters.warmup = parameters.fit_params = parameters.ui = False
parameters.cache_ram_mib, parameters.slot_save_path = asked.cache_ram, asked.slot_save_path + "/"
parameters.endpoint_metrics = parameters.endpoint_slots = True
parameters.cpuparams.n_threads, parameters.n_threads_http = asked.threads, asked.threads_http
parameters.verbosity = 1
server = xllamacpp.Server(parameters)
while True:
    signal.pause()
