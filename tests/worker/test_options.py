"""Configuration: one name an option, flags over environment over file, and nothing unknown passes."""

import argparse
from pathlib import Path

import pytest
from xlmstream_worker import options
from xlmstream_worker.config import ConfigError, WorkerConfig


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "xlm-demo"
    directory.mkdir()
    return directory


def load(arguments: list[str], environment: dict[str, str] | None = None) -> WorkerConfig:
    parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False)
    options.add_options(parser)
    return options.load(parser.parse_args(arguments), environment or {})


BROKER = ["--broker", "redis://localhost"]


def test_a_bare_directory_is_a_model_of_its_name(model: Path) -> None:
    config = load([*BROKER, str(model)])
    assert [(m.name, m.version, m.path) for m in config.models] == [("xlm-demo", None, model)]
    assert (config.device.device, config.device.dtype) == ("cpu", "float32")


def test_name_and_version_before_the_directory(model: Path) -> None:
    config = load([*BROKER, f"clm@2={model}", f"clm={model}"])
    assert [(m.name, m.version) for m in config.models] == [("clm", "2"), ("clm", None)]


def test_flag_wins_over_environment_over_file_over_default(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "worker.toml"
    file.write_text('[broker]\nbroker = "redis://file"\nlease_s = 7\n[device]\nslots = 3\nthreads = 2\n')
    config = load(
        ["--config", str(file), "--slots", "5", str(model)],
        {"XLMSTREAM_WORKER_SLOTS": "4", "XLMSTREAM_WORKER_THREADS": "1", "OTHER": "x"},
    )
    assert config.broker.broker == "redis://file"
    assert config.broker.lease_s == 7.0
    assert config.device.slots == 5
    assert config.device.threads == 1
    assert config.broker.stall_limit_s == 30.0


def test_switches(model: Path) -> None:
    on = {"XLMSTREAM_WORKER_ALLOW_VOLATILE": "true"}
    assert not load([*BROKER, str(model)]).broker.allow_volatile
    assert load([*BROKER, str(model)], on).broker.allow_volatile
    assert not load([*BROKER, "--no-allow-volatile", str(model)], on).broker.allow_volatile
    with pytest.raises(ConfigError, match="allow_volatile must be true or false"):
        load([*BROKER, str(model)], {"XLMSTREAM_WORKER_ALLOW_VOLATILE": "1"})


def test_models_of_the_file(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "worker.toml"
    file.write_text(f'[[models]]\npath = "{model}"\nname = "clm"\ncausal = true\ninput_format = "original"\n')
    (served,) = load([*BROKER, "--config", str(file)]).models
    assert (served.name, served.causal, served.input_format) == ("clm", True, "original")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[broker]\nlease = 3", "unknown key 'lease'; known: broker, allow_volatile, shards, lease_s"),
        ("[brokers]\n", "unknown table 'brokers'"),
        ("[device]\nslots = '8'", "slots must be int"),
        ("[device]\ndtype = 'float64'", "dtype must be one of float32, bfloat16, float16"),
        ("[device]\nslots = true", "slots must be int"),
        ("[[models]]\nname = 'x'", "needs a path"),
        ("[[models]]\npath = '.'\nspeed = 1", "unknown model option 'speed'"),
        ("models = 3", "must be tables"),
        ("[device\n", "is not TOML"),
    ],
)
def test_file_with_a_mistake(text: str, message: str, model: Path, tmp_path: Path) -> None:
    file = tmp_path / "worker.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load([*BROKER, "--config", str(file), str(model)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "broker must be"),
        (["--broker", "http://localhost"], "broker must be"),
        ([*BROKER], "no model to serve"),
        ([*BROKER, "--slots", "0", "."], "slots must be 1 to 4096"),
        ([*BROKER, "--slots", "many", "."], "slots must be an integer"),
        ([*BROKER, "--lease-s", "-1", "."], "lease_s must be above 0"),
        ([*BROKER, "--lease-s", "nan", "."], "lease_s must be above 0"),
        ([*BROKER, "--device", "gpu", "."], "device must be"),
        ([*BROKER, "/no/such/directory"], "is not a directory"),
        ([*BROKER, "na me=."], "model name must be"),
        ([*BROKER, "name@=."], "version of model name must be"),
        ([*BROKER, "--config", "/no/such/file", "."], "cannot read"),
    ],
)
def test_flags_with_a_mistake(arguments: list[str], message: str, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model)
    with pytest.raises(ConfigError, match=message):
        load(arguments)


def test_the_same_model_twice(model: Path) -> None:
    with pytest.raises(ConfigError, match="same name and version"):
        load([*BROKER, str(model), str(model)])


def test_unknown_environment_variable(model: Path) -> None:
    with pytest.raises(ConfigError, match="unknown environment variable 'XLMSTREAM_WORKER_SLOT'"):
        load([*BROKER, str(model)], {"XLMSTREAM_WORKER_SLOT": "8"})


def test_a_password_never_shows(model: Path) -> None:
    assert "secret" not in repr(load(["--broker", "redis://:secret@localhost", str(model)]))


def test_choices_in_the_models_directory_stand_behind_those_of_the_flags(model: Path) -> None:
    (model / "xlmstream.json").write_text('{"version": "9", "input_format": "original", "default_language": "fr"}')
    (served,) = load([*BROKER, "--input-format", "huggingface", str(model)]).models
    filled = options.with_defaults_of_directory(served)
    assert (filled.version, filled.input_format, filled.default_language) == ("9", "huggingface", "fr")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "must hold one object"),
        ('{"format": 1}', "unknown key"),
        ('{"causal": "yes"}', "causal of model xlm-demo must be true or false"),
        ('{"input_format": "bert"}', "input_format"),
        ('{"default_language": 3}', "default_language"),
        ('{"dtype": "int8"}', "dtype of model xlm-demo must be one of float32"),
        ('{"version": 3}', "version of model"),
    ],
)
def test_mistakes_in_the_models_directory(text: str, message: str, model: Path) -> None:
    (model / "xlmstream.json").write_text(text)
    (served,) = load([*BROKER, str(model)]).models
    with pytest.raises(ConfigError, match=message):
        options.with_defaults_of_directory(served)
