"""The spec file: text -> services, validated whole. Every problem is reported at once, with its line.

Owns the words of the file. `FIELDS` is the one description of them: the reference in docs/ is made from it.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Any

from bastide.control.specfile_app import APP_FIELDS, APP_KEYS, AppReader
from bastide.control.specvalues import (
    Field,
    a_name,
    a_number,
    a_time,
    boolean,
    http_url,
    memory,
    money,
    one_of,
    per_token,
    sha256,
    whole,
)
from bastide.control.yamltree import Branch, Leaf, Row, Tree, read
from bastide.domain.errors import InvalidSpec, Problem
from bastide.domain.identity import NAME_RULE, is_name
from bastide.domain.spec import (
    HoldSettings,
    ModelSource,
    OutsideEndpoint,
    Price,
    Replicas,
    Resources,
    ServiceKind,
    ServiceSpec,
    SleepMode,
    SleepSettings,
)

REPLICAS_MAX = 64
CONTEXT_TOKENS_MAX = 2**21
SERVICES_MAX = 20_000
SCHEMES = ("builtin", "hf", "file", "https", "http", "s3")
ENGINES = ("auto", "llama.cpp", "vllm")


FIELDS: tuple[Field, ...] = (
    Field("model", "URL, or {url, sha256}", "-", "Where the weights come from: `builtin://tiny`, `hf://ORG/REPO[/FILE][@REV]`, `file:///path.gguf`, `https://…` (sha256 required), `s3://BUCKET/KEY`."),
    Field("endpoint", "{url, model, key: {secret}}", "-", "Instead of `model`: any OpenAI-compatible server that Bastide does not run. `url` ends in `/v1`."),
    Field("engine", "auto, llama.cpp, vllm", "auto", "The program that serves the model. One that this machine can't run is refused."),
    Field("replicas", "N, or LEAST..MOST", "0..1", "How many instances. Those above LEAST may sleep; `1..2` keeps one awake always."),
    Field("target.in_flight", "1 to 1024", "4", "How many requests one instance should carry before the next is woken."),
    Field("sleep", "off, auto, a time, or {frozen, light, deep}", "auto", "When an idle instance steps down, and to which rung. One time means `light` after it. `auto`: the rung is picked by its measured cost."),
    Field("price.input_per_mtok", "money", "0", "Per million input tokens that were not cached."),
    Field("price.cached_input_per_mtok", "money", "0", "Per million input tokens found in the prompt cache."),
    Field("price.output_per_mtok", "money", "0", "Per million output tokens."),
    Field("price.instance_hour", "money", "0", "Per hour that one instance is awake."),
    Field("hold.wait", "a time up to 1h", "5m", "How long a request waits while its service wakes."),
    Field("hold.queue", "0 to 100000", "256", "How many requests may wait."),
    Field("resources.memory", "auto, or a size", "auto", "What one instance may hold; of an app, at least 64MiB. `auto`: measured after the first start."),
    Field("resources.cpu", "0.1 to 1024", "2", "Processor cores one instance may keep busy (its threads)."),
    Field("context", "64 to 2097152", "4096", "Tokens of context, shared by the requests one instance has in flight."),
    Field("embeddings", "true, false", "false", "Serve `/v1/embeddings` instead of generating text."),
    *APP_FIELDS,
)  # fmt: skip
_TOP = ("project", "services")
MODEL_KEYS = ("model", "endpoint", "engine", "context", "embeddings")
_KEYS = tuple(dict.fromkeys(field.name.split(".")[0] for field in FIELDS))


@dataclass(frozen=True, slots=True)
class SpecFile:
    """What a valid file declares."""

    project: str
    services: tuple[ServiceSpec, ...]
    lines: dict[str, int]  # of each service


def parse(text: str, project: str | None = None) -> SpecFile:
    """The services a file declares. `project` (a key's own) overrides nothing, but a file that names another is refused.

    Raises InvalidSpec with every problem.
    """
    problems: list[Problem] = []
    tree = read(text, problems)
    if tree is None:
        raise InvalidSpec(tuple(problems) or (Problem(0, "", "the file is empty; it needs `services:`"),))
    found = _File(problems).read(tree, project)
    if problems or found is None:
        raise InvalidSpec(tuple(sorted(problems, key=lambda problem: problem.line)))
    return found


class _File(AppReader):
    def read(self, tree: Tree, project: str | None) -> SpecFile | None:
        if not isinstance(tree, Branch):
            self.wrong(tree.line, "", "the file must be a mapping with `project:` and `services:`")
            return None
        self.unknown(tree, _TOP, "")
        named = tree.entries.get("project")
        name = project or "default"
        if named is not None:
            if not isinstance(named, Leaf) or not is_name(str(named.value)):
                self.wrong(named.line, "project", f"must be {NAME_RULE}")
            elif project is not None and named.value != project:
                self.wrong(named.line, "project", f"this key belongs to project {project!r}, not {named.value!r}")
            else:
                name = str(named.value)
        services = tree.entries.get("services")
        if services is None:
            self.wrong(tree.line, "services", "is missing; declare at least one service under it")
            return None
        if not isinstance(services, Branch):
            self.wrong(services.line, "services", "must be a mapping of names to services")
            return None
        if len(services.entries) > SERVICES_MAX:
            self.wrong(services.line, "services", f"holds more than {SERVICES_MAX} services")
            return None
        if not services.entries:
            self.wrong(services.line, "services", "is empty; declare at least one service under it")
        specs = [self.service(name, key, services.lines[key], value) for key, value in services.entries.items()]
        return SpecFile(name, tuple(spec for spec in specs if spec is not None), services.lines)

    def service(self, project: str, name: str, line: int, tree: Tree) -> ServiceSpec | None:
        if not is_name(name):
            self.wrong(line, name, f"a service's name must be {NAME_RULE}")
            return None
        if not isinstance(tree, Branch):
            self.wrong(line, name, "must be a mapping; it needs at least `model:`, `endpoint:` or `app:`")
            return None
        self.unknown(tree, _KEYS, f"{name}.")
        before = len(self._problems)
        if "app" in tree.lines or "image" in tree.lines:
            return self.app_service(project, tree, name, before)
        for key in APP_KEYS:
            if key in tree.lines:
                self.wrong(tree.lines[key], f"{name}.{key}", "is for apps; this service has no `app:` and no `image:`")
        model = self.model(tree, name)
        endpoint = self.endpoint(tree, name)
        if "model" in tree.lines and "endpoint" in tree.lines:
            self.wrong(tree.lines["endpoint"], f"{name}.endpoint", "either `model` or `endpoint`, not both")
        elif "model" not in tree.lines and "endpoint" not in tree.lines:
            self.wrong(
                line, name, "needs `model:` (where its weights come from), `endpoint:` (an outside server) or `app:`"
            )
        replicas = self.leaf(tree, name, "replicas", Replicas(), parse_replicas)
        if endpoint is not None and "replicas" in tree.lines:
            self.wrong(tree.lines["replicas"], f"{name}.replicas", "an outside endpoint has no replicas")
        spec = ServiceSpec(
            project=project,
            name=name,
            model=model,
            endpoint=endpoint,
            engine=self.leaf(tree, name, "engine", "auto", one_of(ENGINES)),
            replicas=replicas,
            target_in_flight=self.group(tree, name, "target", {"in_flight": (4, whole(1, 1024))})["in_flight"],
            sleep=self.sleep(tree, name),
            price=Price(**self.prices(tree, name)),
            hold=self.hold(tree, name),
            resources=self.resources(tree, name),
            context_tokens=self.leaf(tree, name, "context", 4096, whole(64, CONTEXT_TOKENS_MAX)),
            embeddings=self.leaf(tree, name, "embeddings", False, boolean),
        )
        return spec if len(self._problems) == before else None

    def app_service(self, project: str, tree: Branch, name: str, before: int) -> ServiceSpec | None:
        for key in MODEL_KEYS:
            if key in tree.lines:
                self.wrong(tree.lines[key], f"{name}.{key}", "is for models; an app has none")
        app, in_flight = self.app(tree, name)
        prices = self.group(tree, name, "price", {"instance_hour": (0, money)})
        spec = ServiceSpec(
            project=project,
            name=name,
            kind=ServiceKind.APP,
            engine="app",
            replicas=self.leaf(tree, name, "replicas", Replicas(), parse_replicas),
            target_in_flight=in_flight,
            sleep=self.sleep(tree, name),
            price=Price(instance_pico_per_hour=prices["instance_hour"]),
            hold=self.hold(tree, name),
            resources=self.app_resources(tree, name),
            app=app,
        )
        return spec if len(self._problems) == before else None

    def model(self, branch: Branch, name: str) -> ModelSource | None:
        tree = branch.entries.get("model")
        if tree is None:
            return None
        where = f"{name}.model"
        digest: str | None = None
        if isinstance(tree, Branch):
            self.unknown(tree, ("url", "sha256"), f"{where}.")
            url = self.leaf(tree, where, "url", None, str)
            digest = self.leaf(tree, where, "sha256", None, sha256)
            if url is None:
                self.wrong(tree.line, where, "needs `url:`")
                return None
        elif isinstance(tree, Leaf) and isinstance(tree.value, str):
            url = tree.value
        else:
            self.wrong(tree.line, where, "must be a URL such as builtin://tiny or file:///path/model.gguf")
            return None
        if "#sha256=" in url:
            url, _, text = url.partition("#sha256=")
            try:
                digest = sha256(text)
            except ValueError as error:
                self.wrong(tree.line, where, str(error))
        scheme = url.partition("://")[0] if "://" in url else ""
        if scheme not in SCHEMES:
            near = difflib.get_close_matches(scheme, SCHEMES, 1, 0.5)
            hint = f"; did you mean `{near[0]}://`?" if near else ""
            self.wrong(tree.line, where, f"{url!r} has no known scheme ({', '.join(s + '://' for s in SCHEMES)}){hint}")
            return None
        if scheme in ("https", "http") and digest is None:
            self.wrong(tree.line, where, "a download needs its checksum: write {url: …, sha256: …}")
        return ModelSource(url, digest)

    def endpoint(self, branch: Branch, name: str) -> OutsideEndpoint | None:
        tree = branch.entries.get("endpoint")
        if tree is None:
            return None
        where = f"{name}.endpoint"
        if not isinstance(tree, Branch):
            self.wrong(tree.line, where, "must be {url: http://…/v1, model: NAME, key: {secret: NAME}}")
            return None
        self.unknown(tree, ("url", "model", "key"), f"{where}.")
        url = self.leaf(tree, where, "url", None, http_url)
        model = self.leaf(tree, where, "model", None, str)
        secret = self.group(tree, where, "key", {"secret": (None, a_name)})["secret"]
        for key, value in (("url", url), ("model", model)):
            if value is None and key not in tree.entries:
                self.wrong(tree.line, where, f"needs `{key}:`")
        return OutsideEndpoint(url, model, secret) if url is not None and model is not None else None

    def sleep(self, branch: Branch, name: str) -> SleepSettings:
        tree = branch.entries.get("sleep")
        if tree is None:
            return SleepSettings()
        if isinstance(tree, Row):
            self.wrong(tree.line, f"{name}.sleep", "must be off, auto, a time, or {frozen, light, deep}")
            return SleepSettings()
        if isinstance(tree, Leaf):
            if tree.value is False or tree.value == "off":
                return SleepSettings(SleepMode.OFF)
            if tree.value == "auto":
                return SleepSettings(SleepMode.AUTO)
            light_s = self.leaf(branch, name, "sleep", None, a_time(0.0, 366 * 86400.0))
            return SleepSettings(SleepMode.TIMERS, light_s=light_s)
        bound = a_time(0.0, 366 * 86400.0)
        times = self.group(
            branch, name, "sleep", {"frozen": (None, bound), "light": (None, bound), "deep": (None, bound)}
        )
        given = [times[rung] for rung in ("frozen", "light", "deep") if times[rung] is not None]
        if not given:
            self.wrong(tree.line, f"{name}.sleep", "needs a time for frozen, light or deep")
        if given != sorted(given):
            self.wrong(tree.line, f"{name}.sleep", "a colder rung can't come earlier: frozen <= light <= deep")
        return SleepSettings(SleepMode.TIMERS, times["frozen"], times["light"], times["deep"])

    def prices(self, branch: Branch, name: str) -> dict[str, int]:
        price = (0, per_token)
        found = self.group(
            branch,
            name,
            "price",
            {
                "input_per_mtok": price,
                "cached_input_per_mtok": price,
                "output_per_mtok": price,
                "instance_hour": (0, money),
            },
        )
        return {
            "input_pico_per_token": found["input_per_mtok"],
            "cached_input_pico_per_token": found["cached_input_per_mtok"],
            "output_pico_per_token": found["output_per_mtok"],
            "instance_pico_per_hour": found["instance_hour"],
        }

    def hold(self, branch: Branch, name: str) -> HoldSettings:
        found = self.group(
            branch, name, "hold", {"wait": (300.0, a_time(0.0, 3600.0)), "queue": (256, whole(0, 100_000))}
        )
        return HoldSettings(found["wait"], found["queue"])

    def resources(self, branch: Branch, name: str) -> Resources:
        found = self.group(branch, name, "resources", {"memory": (None, memory), "cpu": (2.0, a_number(0.1, 1024))})
        return Resources(found["memory"], found["cpu"])


def parse_replicas(value: Any) -> Replicas:
    """`2`, `0..2`, `1..`. Raises ValueError, which says what to write."""
    text = str(value)
    match = re.fullmatch(r"(\d{1,6})(?:\.\.(\d{0,6}))?", text)
    if match is None or isinstance(value, bool):
        raise ValueError(f"{text!r} is not a number of replicas; write 1, 0..2 or 1..4")
    least = int(match[1])
    most = least if match[2] is None else int(match[2]) if match[2] else max(1, least)
    if most < least:
        raise ValueError(f"{text!r} runs backwards; write {most}..{least}")
    if most == 0:
        raise ValueError("0 replicas can never serve; write 0..1 for one that sleeps, or `bastide rm` the service")
    if most > REPLICAS_MAX:
        raise ValueError(f"at most {REPLICAS_MAX} replicas")
    return Replicas(least, most)
