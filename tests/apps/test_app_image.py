"""An OCI image as an app: its own root, its own libraries, its own words for how it is run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from app_town import Town
from image_maker import archive, layout, python_layer, second_layer

from bastide.builds.images import program
from bastide.cli.apps import uploaded
from bastide.domain.errors import Unsupported


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        program("umoci")
    except Unsupported as error:
        pytest.skip(error.message)
    folder = tmp_path_factory.mktemp("image")
    return archive(layout(folder / "layout", [python_layer(), second_layer()]), folder / "site.tar")


@pytest.mark.parametrize("tier", ["namespace", "gvisor"])
def test_an_image_serves_from_its_own_root(town: Town, image: Path, tier: str) -> None:
    name = f"site-{tier}"
    text = json.dumps({"services": {name: {"image": image.name, "isolation": tier}}})
    text = uploaded(town.house.client, text, image.parent, quiet=True)
    end = town.house.deploy(text)[name]
    if tier == "gvisor" and "does not hold" in end.get("reason", ""):
        pytest.skip("the gvisor tier does not hold here")
    assert end["phase"] == "ready", end
    seen = town.json(name)
    assert seen["mark"] == "second" and not seen["gone"] and seen["here"] == "/srv" and seen["colour"] == "green"
    assert seen["port"] == "5005" and {"opt", "srv", "data"} <= set(seen["root"]) and "usr" not in seen["root"]
    assert town.json(name)["mark"] == "second"
