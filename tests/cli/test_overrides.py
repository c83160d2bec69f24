"""Keys and values that cannot be meant: one line that names the fix, exit code 2, before anything is made."""

import re
from pathlib import Path

import pytest
from command_line import QUIET, call, refusal
from composed import compose
from omegaconf import OmegaConf

from fewshot.errors import InputError


@pytest.mark.parametrize(
    ("words", "message"),
    [
        # keys
        ("algorithm.iner_lr=1", "near it: algorithm.inner_lr, "),
        ("+foo=1", "'foo' is not a key of the configuration; `--cfg job` lists all keys"),
        (
            "+algorithm.inner_stps=1",
            "'algorithm.inner_stps' is not a key of the configuration; near it: algorithm.inner",
        ),
        ("~foo", "'foo' is not a key"),
        ("dataset.data_dir=x", "'dataset.data_dir' is not a key of the configuration; near it: dataset.cache_dir"),
        ("algorithm/foo=bar", "'algorithm/foo' is not a key"),
        # options of groups
        ("algorithm=mamll", "there is no 'algorithm/mamll'; available: alpha_tim, anil, baseline, "),
        ("algorithm=mamll", "; did you mean maml"),
        ("algorithm=", "there is no 'algorithm/'; available: alpha_tim, "),
        (
            "logger=[console,wandbb]",
            "there is no 'logger/wandbb'; available: console, tensorboard, wandb; did you mean",
        ),
        (
            "trainer/schedule=cosin",
            "there is no 'trainer/schedule/cosin'; available: constant, cosine, decay, ",
        ),
        ("experiment=nope", "there is no 'experiment/nope'; available: "),
        ("algorithm=null", "algorithm=null: a group is chosen by name"),
        ("algorithm=[maml,anil]", "algorithm=[maml,anil]: choose one; -m algorithm=maml,anil runs each"),
        ("~dataset", "the configuration has no dataset; choose one: dataset=NAME"),
        ("~trainer", "the configuration has no trainer"),
        # types, in the schema and by the default in a group
        ("shots=abc", "shots=abc is a text, expected a whole number"),
        ("shots=null", "shots=null: write a whole number, or {low: 1, high: 5}"),
        ("shots={low:3,high:2}", "shots.high=2 is below shots.low=3"),
        ("shots.low=1", "shots.low=1: 'shots' is a number; write 'shots={low: 1, high: 9}'"),
        ("seed=1.5", "seed=1.5 is a number, expected a whole number"),
        ("algorithm.inner_steps=abc", "algorithm.inner_steps=abc is a text, expected a whole number like the default"),
        ("algorithm.inner_lr=abc", "algorithm.inner_lr=abc is a text, expected a number like the default"),
        ("algorithm.first_order=1", "algorithm.first_order=1 is a whole number, expected true or false"),
        ("algorithm.stream=3", "algorithm.stream=3 is a whole number, expected a group of keys"),
        (
            "trainer.optimizer=adamw",
            "'trainer.optimizer' is a group, whose options are chosen by trainer/optimizer=adamw",
        ),
        ("backbone=mlp backbone.widths=[8,a]", "backbone.widths=[8, 'a'] has a text in it, expected what is in the"),
        ("backbone=mlp backbone.widths=[8,0.5]", "backbone.widths=[8, 0.5] has a number in it"),
        ("trainer.optimizer.betas=[null,0.9]", "trainer.optimizer.betas=[None, 0.9] has null in it"),
        ("trainer.schedule=decay", "chosen by trainer/schedule=decay"),
        ("trainer.optimizer=null", "trainer.optimizer=null is null, expected a group of keys"),
        ("paper.accuracy=98", "'paper' is null and has no keys to set"),
        # ranges and relations
        ("shots=0", "shots=0 is below 1"),
        ("ways=1", "ways=1 is below 2"),
        ("trainer.steps=-1", "trainer.steps=-1 is below 0"),
        ("precision=fp8", "precision=fp8 is unknown; choose auto, fp32, tf32 or bf16"),
    ],
)
def test_refused(words: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as refused:
        compose("config", words.split())
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("trainer.stepz=4", "'trainer.stepz' is not a key of the configuration; near it: trainer.steps, "),
        ("hydra.launcher.slots=0", "hydra.launcher.slots=0 is a sweep's, and this is one run; add -m, or leave it out"),
        ("shots=1,5", "shots=1,5 names several values; add -m to run them all as a sweep"),
        ("shots=[1,5", "cannot read 'shots=[1,5': write KEY=VALUE"),
        ("shots", "cannot read 'shots': write KEY=VALUE"),
        ("--bogus", "unrecognized arguments: --bogus; keys are set as KEY=VALUE"),
        ("--cfg=all -m", "Only one of --run, --multirun, --cfg"),
        ("--config-dir=nowhere", "nowhere"),
    ],
)
def test_refused_by_the_command(tmp_path: Path, words: str, message: str) -> None:
    assert message in refusal("train", *words.split(), cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("trainer.optimizer.lr=-1", "trainer.optimizer.lr=-1 is below 0; its default is 0.003"),
        ("trainer.optimizer.betas=[0.9]", "trainer.optimizer: its values do not fit (IndexError('list index out of"),
        (
            "logger=wandb logger.wandb.mode=onlin",
            "logger.wandb.mode=onlin is unknown; choose auto, online, offline or disabled",
        ),
        ("algorithm.inner_rate=fast", "inner_rate=fast"),
        ("trainer/schedule=milestones trainer.schedule.at=[2,1]", "milestones rise from above 0"),
        ("backbone=conv4 backbone.blocks=9", "9 poolings leave nothing of a 28x28 image; lower backbone.blocks"),
        ("algorithm._target_=nowhere.Net", "algorithm: cannot import 'nowhere.Net' (ModuleNotFoundError: "),
        ("backbone._target_=torch.nn.Identity", "has no whole number `out_features`"),
        ("algorithm._target_=fewshot.algorithms.protonet.ProtoNet", "unexpected keyword argument 'inner_"),
        (
            "ways={low:2,high:3} train_ways=3 algorithm.head_init=default",
            "ways=2, but this head was learned for ways=3",
        ),
        ("normalize={mean:0.5,std:1}", "normalize={'mean': 0.5, 'std': 1} is unknown; use dataset, none or {mean: ["),
        ("trainer.rate_factors=3", "trainer.rate_factors=3; give {PART: FACTOR}"),
        ("algorithm.task_chunk=abc", "algorithm.task_chunk=abc is a text, expected a whole number or null"),
        ("algorithm.inner_clip=true", "algorithm.inner_clip=True is true or false, expected a number or null"),
        ("device=tpu", "device=tpu is unknown; use auto, cpu, cuda or cuda:<index>"),
        ("ways=2000", "ways=2000 but split 'train' of 'glyphs' has 8"),
        ("ways=200 train_ways=5", "ways=200 but split 'val' of 'glyphs' has 1"),
        ("shots=19", "classes of split 'train' of 'glyphs' have fewer than shots+queries=21 images"),
        ("train_ways={low:2,high:3}", "give train_ways as a number, not 2 to 3: ways=2, but this head was learned for"),
        ("train_shots={low:1,high:2,per:class}", "MAML cannot be trained on train_shots=1 to 2 per class: images that"),
        ("train_split=nope", "split 'nope' of 'glyphs' has no classes; there are: train ("),
        ("precision=bf16", "precision=bf16 changes a second-order meta-gradient by about 30 %"),
        ("dataset.size=27", "27"),
        (  # a preset's published value can be left out: it is something else that is missing
            "experiment=maml/omniglot_5w1s paper=null dataset.download=false data_dir=. cache_dir=.",
            "raw files are missing",
        ),
    ],
)
def test_refused_by_what_it_is_given_to(tmp_path: Path, word: str, message: str) -> None:
    said = refusal("train", *QUIET, "trainer.steps=0", *word.split(), cwd=tmp_path)
    assert message in said
    assert not list(tmp_path.rglob("run.json")), "a run folder was made"


def test_cfg_job_prints_the_configuration_and_runs_nothing(tmp_path: Path) -> None:
    done = call("train", "--cfg", "job", "shots=5", "algorithm=protonet", "ways=7", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    printed = OmegaConf.create(done.out)
    assert (printed.ways, printed.shots, printed.train_ways, printed.train_shots) == (7, 5, 7, 5)
    assert printed.algorithm._target_ == "fewshot.algorithms.protonet.ProtoNet"
    assert "hydra" not in printed
    assert list(tmp_path.iterdir()) == []


def test_info_and_flags_among_overrides(tmp_path: Path) -> None:
    assert "Config search path" in call("train", "--info", "searchpath", "ways=3", cwd=tmp_path).out
    assert "conf" in call("train", "ways=3", "--info", cwd=tmp_path).out


@pytest.mark.parametrize(
    "name", ["größe", "a=b", "a b", "a(b)", "中文", "x+y", "a~b", "50%", "2024_01", "1.10", "true"]
)
def test_plain_values_need_no_quotes_of_hydras(tmp_path: Path, name: str) -> None:
    done = call("train", f"output_dir={name}", "--cfg", "job", cwd=tmp_path)
    assert OmegaConf.create(done.out).output_dir == name, done.err


def test_a_tilde_is_the_users_folder_wherever_it_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    from fewshot.cli.compose import compose

    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("FEWSHOT_CACHE", "~/cache")
    config = compose("config", ["output_dir=~/out", "init='~/a b'"]).config
    assert [config[key] for key in ("cache_dir", "output_dir", "init")] == [
        "/home/me/cache",
        "/home/me/out",
        "/home/me/a b",
    ]


def test_a_bad_default_of_a_users_group_is_found_there_too(tmp_path: Path) -> None:
    (tmp_path / "mine" / "backbone").mkdir(parents=True)
    (tmp_path / "mine" / "backbone" / "net.yaml").write_text("_target_: net.Net\nwidth: 8\n")
    words = ("train", "--config-dir", "mine", "backbone=net")
    assert "near it: backbone.width" in refusal(*words, "backbone.widht=3", cwd=tmp_path)
    assert refusal(*words, "backbone.width=wide", cwd=tmp_path).startswith("backbone.width=wide is a text")
    (tmp_path / "mine" / "backbone" / "net.yaml").write_text("_target_: net.Net\nwidth: {8\n")
    assert re.search(r"net\.yaml, line 3: expected ',' or '}'", refusal(*words, cwd=tmp_path))


def test_errors_are_input_errors() -> None:
    from fewshot.cli.overrides import arguments

    with pytest.raises(InputError, match=r"unrecognized arguments: --x; keys are set as KEY=VALUE"):
        arguments(["--x"])
    assert arguments(["ways=3", "--cfg", "job", "shots=1"]) == (["--cfg", "job"], ["ways=3", "shots=1"], None)


@pytest.mark.parametrize(
    "value", [None, True, 3, 0.5, 1e-05, "a b", "it's", "größe = {x}, [y]", ["a", 1, None], {"mean": [0.5], "x": "y z"}]
)
def test_values_of_python_come_through(tmp_path: Path, value: object) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from fewshot.cli.overrides import override

    parsed = OverridesParser.create().parse_override(override("key", value))
    assert parsed.key_or_group == "key"
    found = parsed.value()
    assert str(found) == str(value) if isinstance(value, str) else found == value
