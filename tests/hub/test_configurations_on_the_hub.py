"""A configuration goes to the Hub alone: with all code that it names, and in private unless that is refused."""

import json

import pytest
from transformers import AutoConfig

from test_bundling_towers import hmba_on_a_videomamba, mambavl_on_a_videomamba
from without_package import import_closure

ON_A_VIDEOMAMBA = [(hmba_on_a_videomamba, "hmba"), (mambavl_on_a_videomamba, "mambavl")]


@pytest.mark.parametrize(("build", "family"), ON_A_VIDEOMAMBA)
@pytest.mark.parametrize("way", ["save_pretrained", "push_to_hub"])
def test_the_code_of_a_tower_of_another_family_goes_along(hub, way, build, family, tmp_path):
    config = build()[0].config
    if way == "save_pretrained":
        config.save_pretrained(tmp_path / "alone", push_to_hub=True, repo_id="org/alone", commit_message="Mine")
    else:
        config.push_to_hub("org/alone", private=True, commit_message="Mine")
    repository = hub.repository("org/alone")
    files = repository.files()
    pushed = {name.removesuffix(".py") for name in files if name.endswith(".py")}
    assert pushed == import_closure(f"bundling_{family}")
    named = {reference.split(".")[0] for reference in json.loads(files["config.json"])["auto_map"].values()}
    assert named == {f"bundling_{family}"}
    assert repository.private and repository.titles()[0] == "Mine"
    assert AutoConfig.from_pretrained("org/alone").to_dict() == config.to_dict() | {"_name_or_path": "org/alone"}


@pytest.mark.parametrize(("build", "family"), ON_A_VIDEOMAMBA)
def test_options_of_saving_are_those_of_a_push(hub, build, family, tmp_path):
    config = build()[0].config
    with pytest.raises(ValueError, match=r"options of save_pretrained must be .* \['repo'\]"):
        config.save_pretrained(tmp_path / "refused", push_to_hub=True, repo="org/alone")
    assert not (tmp_path / "refused").exists()
    config.save_pretrained(tmp_path / family, push_to_hub=True, private=False)
    (repository,) = hub.repositories.values()
    assert repository.id.endswith(f"/{family}") and not repository.private
