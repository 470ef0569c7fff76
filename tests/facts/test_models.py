"""What a model argument can be."""

import pytest

from bitbench.facts.models import ModelRef, parse_model


def test_forms(tmp_path):
    assert parse_model("demo") == ModelRef(kind="demo", name="demo")
    assert parse_model("shape:Qwen2.5-0.5B").label == "shape:qwen2.5-0.5b"
    assert parse_model(str(tmp_path)).kind == "folder"
    assert parse_model("owner/name") == ModelRef(kind="hub", name="owner/name")


@pytest.mark.parametrize("argument", ["qwen", "shape:", "shape:x", "./a", "/a/b", "a/b/c", "owner/", "/name", "~/x"])
def test_bad_arguments_name_what_is_valid(argument):
    with pytest.raises(ValueError, match=r"choose from|give demo|no model folder"):
        parse_model(argument)
