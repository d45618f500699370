"""The one script that starts llama.cpp from the wheel `xllamacpp`. The keeper runs it by path; nothing imports it.

`prepare` is called once in the keeper, so that every engine is forked with the library already loaded (a start costs
about 15 ms less than half of what a fresh interpreter costs). It must start no thread. `run` is called in the fork.
"""

from __future__ import annotations

import json
from collections.abc import Callable


def prepare() -> None:
    """Load the library. Raises ImportError where it is not installed."""
    import xllamacpp  # noqa: F401


def run(config_text: str, ready: Callable[[], None], wait: Callable[[], None]) -> None:
    """Serve until the process is ended. RuntimeError where the engine can't start; its log says why."""
    import xllamacpp

    config = json.loads(config_text)
    parameters = xllamacpp.CommonParams()
    parameters.model.path = config["model"]
    parameters.model_alias = {config["alias"]}
    parameters.hostnames = [config["socket"]]
    parameters.port = 0
    parameters.api_keys = [config["secret"]]
    parameters.n_ctx = config["context_tokens"]
    parameters.n_parallel = config["slots"]
    parameters.kv_unified = True
    parameters.warmup = False
    parameters.fit_params = False
    parameters.cache_ram_mib = config["prompt_cache_mib"]
    parameters.slot_save_path = config["state_directory"] + "/"
    parameters.endpoint_metrics = True
    parameters.endpoint_slots = True
    parameters.embedding = config["embeddings"]
    if config["mean_pooling"]:
        parameters.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    parameters.cpuparams.n_threads = config["threads"]
    parameters.cpuparams_batch.n_threads = config["threads"]
    parameters.n_threads_http = max(4, config["slots"] + 2)
    parameters.verbosity = 1  # errors only: prompts are never logged
    parameters.ui = False
    server = xllamacpp.Server(parameters)
    ready()
    wait()
    del server
