"""What a controller's command line and environment say."""

from __future__ import annotations

import pytest

from controller.config import from_command_line
from trillium.server.config import ConfigError


def test_those_that_predictors_are_kept_for_may_have_several_labels() -> None:
    variable = {"TRILLIUM_CONTROLLER_KEEP_FOR": "project=p, service=aggregator"}
    config = from_command_line(["--runtime", "docker"], variable)
    assert config.docker is not None
    assert config.docker.keep_for == ("project=p", "service=aggregator")
    config = from_command_line(["--runtime", "docker"], {})
    assert config.docker is not None
    assert config.docker.keep_for == ()


@pytest.mark.parametrize("text", ["aggregator", "=aggregator", "service="])
def test_a_label_without_name_or_value_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected name=value"):
        from_command_line(["--keep-for", text], {})
