"""Run alone: python -m pytest tests/test_recipes.py"""

import dataclasses

import pytest
import yaml

from hermes_nb import recipes
from hermes_nb.errors import RecipeProblem
from hermes_nb.runtime import SCALES


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", recipes.names())
def test_every_shipped_recipe_loads_at_every_scale(name, scale):
    """Recipes nobody parses rot."""
    recipe = recipes.load(name, scale)
    assert (recipe.name, recipe.scale, recipe.variant) == (name, scale, "repaired")
    assert recipe.model.base == "builtin" if scale == "tiny" else recipe.model.revision


def test_scales_change_sizes_and_never_the_path():
    """A stage that exists at one scale only is never tested at the other."""
    for name in recipes.names():
        made = [recipes.load(name, s) for s in SCALES]
        assert len({(r.sft is None, r.dpo is None, r.dpo.loss, r.dpo.beta) for r in made}) == 1


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["dpo.betta=1"], "did you mean 'beta'"),
        (["modle.base=x"], "did you mean 'model'"),
        (["dpo.beta=high"], "dpo.beta"),
        (["dpo.train=[{sorce: x}]"], "source"),
        (["dpo.beta"], "KEY=VALUE"),
        (["dpo.neftune=5"], "reference"),
        (["lora.targets=[q_proj, lm_head]"], "head"),
        (["dpo.loss=[exo_pair]"], "above 0"),
        (["dpo.label_smoothing=0.1"], "robust"),
        (["dpo=null"], "dpo stage is missing"),
        (["dpo.held_out=[]"], "held_out"),
        (["dpo.beta=["], "brackets"),
        (["dpo.rows_per_device=0"], "rows_per_device"),
        (["dpo.loss=[sigmod]"], "loss"),
        (["dpo.schedule=cosin"], "cosine"),
        (["sft.optimizer=adam"], "adamw_torch"),
        (["merge.onto=orignal"], "merge.onto"),
        (["dpo.loss_weights=[1, 2]"], "one weight for each"),
    ],
)
def test_a_wrong_key_value_or_combination_is_named(overrides, said):
    """An ignored key is a run with other settings than one believes (NEFTune in DPO would poison the reference)."""
    with pytest.raises(RecipeProblem, match=said):
        recipes.load("course", "tiny", overrides=overrides)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"name": "cours"}, "did you mean 'course'"),
        ({"name": "course", "scale": "huge"}, "tiny, t4, a100"),
        ({"name": "course", "variant": "as_published"}, "no variant"),
        ({"name": "nowhere.yaml"}, "no recipe"),
    ],
)
def test_an_unknown_name_scale_or_variant_is_named(arguments, said):
    """One sentence says what is there instead."""
    with pytest.raises(RecipeProblem, match=said):
        recipes.load(**arguments)


def test_overrides_are_laid_over_and_recorded():
    """A run must say what was changed on its command line; 1e-5 is a number, though YAML 1.1 reads it as text."""
    recipe = recipes.load("course", "tiny", overrides=["dpo.learning_rate=1e-5", "model.base=some/model"])
    assert recipe.dpo.learning_rate == 1e-5
    assert recipe.model.base == "some/model"
    assert recipe.overrides == ("dpo.learning_rate=1e-5", "model.base=some/model")


def test_the_global_batch_stays_when_its_parts_change():
    """16 rows a step on one process or eight on each of two; what is derived is never typed."""
    stage = recipes.load("neuralhermes", "a100").dpo
    assert (stage.rows_each(1), stage.rows_each(2)) == (16, 8)
    assert stage.batch_line() == "16 rows a step, laid one after another without padding"
    padded = dataclasses.replace(stage, packed=False, rows_per_device=2)
    assert padded.batch_line() == "16 rows a step, padded, 2 at once"
    with pytest.raises(RecipeProblem, match="not a multiple"):
        stage.rows_each(3)


def test_neuralhermes_has_no_sft_stage():
    """It starts DPO on a tuned chat model; the base with the adapter off is the reference."""
    assert recipes.load("neuralhermes", "a100").sft is None


def test_a_recipe_survives_the_way_to_disk_and_back(tmp_path):
    """A run directory is resumed and evaluated from its recipe.yaml."""
    recipe = recipes.load("course", "tiny", overrides=["dpo.beta=0.2"])
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe.to_dict()))
    assert recipes.read(file) == recipe


def test_a_recipe_cannot_be_changed_by_accident():
    """A notebook that edits a shared recipe changes runs that come later."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipes.load("course", "tiny").seed = 3


def test_yaml_that_builds_objects_is_refused(tmp_path):
    """A recipe from elsewhere must not run code."""
    file = tmp_path / "evil.yaml"
    file.write_text("name: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(RecipeProblem, match="not readable"):
        recipes.load(str(file))
