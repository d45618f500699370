"""llama.cpp's server: the packaged wheel in our child script, or an operator's own `llama-server` binary.

Settings found by trying: passive OpenMP waiting and threads from the node's budget (spinning threads cost 10-20 times
the CPU under contention), no warm-up run, no fitting pass, one unified KV cache, a bounded prompt cache in RAM (the
engine's own default is 8 GiB). Its own idle sleep is never used: a long prompt at the moment of sleep crashes it.
"""

from __future__ import annotations

import hashlib
import json

from bastide.domain.instances import Assignment, EngineCounters, LaunchSpec, WeightFile
from bastide.domain.spec import ServiceSpec
from bastide.engines.port import Ask, Place

PROMPT_CACHE_MIB = 64
SLOTS_MAX = 16
KV_BYTES_PER_VALUE = 2  # f16
# Binary, libraries, compute buffers and HTTP threads beside weights and KV cache, seen at 12-20 MB for small models.
OVERHEAD_BYTES = 20 * 2**20
OVERHEAD_SHARE = 0.05
CANARY_PROMPT = "The quick brown fox"
CANARY_TOKENS = 4


class LlamaCpp:
    """See engines/port.py."""

    name = "llama.cpp"

    def refuses(self, spec: ServiceSpec, weights: WeightFile | None) -> str | None:
        if weights is None:
            return "llama.cpp needs a weight file"
        return None

    def estimate_bytes(self, spec: ServiceSpec, weights: WeightFile | None) -> int:
        if weights is None:
            return OVERHEAD_BYTES
        kv_bytes = 2 * weights.layers * weights.kv_heads * weights.head_length * KV_BYTES_PER_VALUE
        return int(weights.weights_bytes * (1 + OVERHEAD_SHARE) + kv_bytes * spec.context_tokens + OVERHEAD_BYTES)

    def launch(self, assignment: Assignment, place: Place) -> LaunchSpec:
        spec, weights = assignment.spec, assignment.weights
        if weights is None:
            raise ValueError("llama.cpp needs a weight file")
        # A Unix socket's path is at most 107 bytes, and names are not.
        short = hashlib.sha256(assignment.instance.encode()).hexdigest()[:20]
        socket = f"{place.sockets_directory}/{short}.sock"
        state = f"{place.state_directory}/{short}"
        slots = max(1, min(spec.target_in_flight, SLOTS_MAX))
        threads = max(1, min(place.threads, round(spec.resources.cpu)))
        environment: tuple[tuple[str, str], ...] = (("OMP_WAIT_POLICY", "passive"), ("OMP_PROC_BIND", "false"))
        argv: tuple[str, ...] = ()
        config = ""
        if place.binary:
            argv = _arguments(place.binary, spec, weights, socket, state, slots, threads)
            environment += (("LLAMA_API_KEY", place.secret),)
        else:
            config = json.dumps(
                {
                    "model": weights.path,
                    "alias": spec.name,
                    "socket": socket,
                    "secret": place.secret,
                    "context_tokens": spec.context_tokens,
                    "slots": slots,
                    "threads": threads,
                    "prompt_cache_mib": PROMPT_CACHE_MIB,
                    "state_directory": state,
                    "embeddings": spec.embeddings,
                    # A model that was not made for embeddings does not say how to pool: the mean is what works.
                    "mean_pooling": spec.embeddings and not weights.pools,
                }
            )
        return LaunchSpec(
            instance=assignment.instance,
            engine=self.name,
            socket=socket,
            secret=place.secret,
            child="" if place.binary else "xllamacpp",
            config=config,
            argv=argv,
            environment=environment,
            log=f"{place.logs_directory}/{assignment.instance}.log",
            state_directory=state,
            lease_s=place.lease_s,
            start_s_max=120.0 + weights.weights_bytes / 20e6,
            slots=0 if spec.embeddings else slots,
            embeddings=spec.embeddings,
            read_ahead=(weights.path,),
        )

    def health(self) -> Ask:
        return Ask("GET", "/health")

    def metrics(self) -> Ask:
        return Ask("GET", "/metrics")

    def counters(self, metrics: str) -> EngineCounters:
        values: dict[str, float] = {}
        for line in metrics.splitlines():
            if line.startswith("llamacpp:"):
                name, _, value = line[len("llamacpp:") :].partition(" ")
                try:
                    values[name] = float(value)
                except ValueError:
                    continue
        cached = int(values.get("prompt_tokens_cached_total", 0))
        return EngineCounters(
            input_tokens=int(values.get("prompt_tokens_total", 0)) + cached,
            cached_input_tokens=cached,
            output_tokens=int(values.get("tokens_predicted_total", 0)),
            requests_in_flight=int(values.get("requests_processing", 0)),
        )

    def canary(self, embeddings: bool) -> Ask:
        if embeddings:
            return Ask("POST", "/v1/embeddings", json.dumps({"input": CANARY_PROMPT}).encode())
        body = {
            "prompt": CANARY_PROMPT,
            "max_tokens": CANARY_TOKENS,
            "temperature": 0,
            "seed": 1,
            "cache_prompt": False,  # the same sums in the same order, so that equal memory gives equal answers
            "stream": False,
        }
        return Ask("POST", "/v1/completions", json.dumps(body).encode())

    def canary_answer(self, body: bytes) -> tuple[str, EngineCounters]:
        try:
            answer = json.loads(body)
            if "data" in answer:
                vector = answer["data"][0]["embedding"]
                tokens = int(answer["usage"]["prompt_tokens"])
                return ",".join(f"{value:.3f}" for value in vector[:16]), EngineCounters(input_tokens=tokens)
            timings = answer["timings"]
            cached = int(timings["cache_n"])
            return answer["choices"][0]["text"], EngineCounters(
                input_tokens=cached + int(timings["prompt_n"]),
                cached_input_tokens=cached,
                output_tokens=int(timings["predicted_n"]),
            )
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise ValueError(f"the engine's answer to its canary is garbage: {body[:200]!r}") from error

    def save(self, slot: int) -> Ask | None:
        return Ask("POST", f"/slots/{slot}?action=save", json.dumps({"filename": f"slot-{slot}"}).encode())

    def restore(self, slot: int) -> Ask | None:
        return Ask("POST", f"/slots/{slot}?action=restore", json.dumps({"filename": f"slot-{slot}"}).encode())


def _arguments(
    binary: str, spec: ServiceSpec, weights: WeightFile, socket: str, state: str, slots: int, threads: int
) -> tuple[str, ...]:
    arguments = (
        binary, "--model", weights.path, "--alias", spec.name, "--host", socket,
        "--ctx-size", str(spec.context_tokens), "--parallel", str(slots), "--kv-unified",
        "--threads", str(threads), "--threads-http", "4", "--no-warmup", "--fit", "off",
        "--cache-ram", str(PROMPT_CACHE_MIB), "--slot-save-path", state, "--metrics", "--slots", "--no-webui", "--jinja",
    )  # fmt: skip
    if not spec.embeddings:
        return arguments
    return (*arguments, "--embeddings", *(() if weights.pools else ("--pooling", "mean")))
