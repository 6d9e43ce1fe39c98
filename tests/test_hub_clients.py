"""The hub of our own answers what the real libraries ask, unchanged.

Each reads its settings when it is imported, so they run in a process that
starts with them.
"""

import json
import os
import subprocess
import sys
import time

import pytest

from helpers import paths
from helpers.errors import InputError
from helpers.pretrained import rows
from tests import checkpoints
from tests.hub import Hub

CLIENTS = """
import json, torch
from sae_lens import SAE
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformer_lens.model_bridge import TransformerBridge
said = {}
tokenizer = AutoTokenizer.from_pretrained("google/gemma-2b")
said["bos"] = tokenizer.encode("a fox")[0] == tokenizer.bos_token_id
model = AutoModelForCausalLM.from_pretrained("google/gemma-2b")
said["shards"] = model.config.num_hidden_layers
bridge = TransformerBridge.boot_transformers("gpt2", device="cpu")
said["moved"] = bridge.cfg.n_layers
for release, sae_id in [
    ("gpt2-small-res-jb", "blocks.2.hook_resid_pre"),
    ("gpt2-small-resid-post-v5-32k", "blocks.3.hook_resid_post"),
    ("gemma-scope-2-270m-pt-res-all", "layer_3_width_16k_l0_small"),
]:
    sae = SAE.from_pretrained(release, sae_id)
    said[release] = [sae.cfg.metadata.hook_name, sae.cfg.d_sae]
print(json.dumps(said))
"""
STREAMED = """
import sys, time
from helpers.errors import InputError
from helpers.text import sources
start = time.monotonic()
try:
    found = sources.read("dataset:monology/pile-uncopyrighted", "text", 0)
    texts = [document.text for document in found]
    print(len(texts), texts[0].split(".")[0])
except InputError as error:
    print("error:", error)
print(round(time.monotonic() - start, 1))
"""


@pytest.fixture(scope="module")
def server():
    with Hub(checkpoints.repositories()) as hub:
        yield hub


def run(code, server, home, **more):
    environment = {
        **os.environ, "HF_ENDPOINT": server.url, "HF_HOME": str(home),
        "HF_TOKEN": "hf_allowed", "PYTHONPATH": str(paths.ROOT),
        "HF_DATASETS_CACHE": str(home / "datasets"), **more,
    }  # fmt: skip
    environment.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, text=True,
        capture_output=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip().splitlines()


def test_transformers_saelens_and_datasets_are_served(server, tmp_path):
    lines = run(CLIENTS + STREAMED, server, tmp_path)
    count, first = lines[-2].split(" ", 1)
    assert int(count) == 400 and first.startswith("Row 0")
    said = json.loads(lines[-3])
    assert said.pop("bos") is True
    assert said.pop("shards") == said.pop("moved") == 5
    assert said == {
        "gpt2-small-res-jb": ["blocks.2.hook_resid_pre", 128],
        "gpt2-small-resid-post-v5-32k": ["blocks.3.hook_resid_post", 128],
        "gemma-scope-2-270m-pt-res-all": ["blocks.3.hook_resid_post", 128],
    }


def test_no_hub_no_stream(server, tmp_path):
    said, seconds = run(STREAMED, server, tmp_path,
                        HF_ENDPOINT="http://127.0.0.1:9")[-2:]  # fmt: skip
    assert said.startswith("error: ") and "Traceback" not in said
    assert float(seconds) < 12  # importing datasets is a part of it


def test_a_silent_stream_asks_the_hub(monkeypatch):
    monkeypatch.setattr(rows, "QUIET", 0.1)

    def silent():
        yield {"text": "one"}
        time.sleep(20)

    def dead():
        raise InputError("the hub is gone")

    found = rows.watched(silent, dead)
    start = time.monotonic()
    assert next(found) == {"text": "one"}
    with pytest.raises(InputError, match="gone"):
        next(found)
    assert time.monotonic() - start < 3
    monkeypatch.setattr(rows, "LONGEST", 0.3)
    found = rows.watched(silent, lambda: None)
    next(found)
    with pytest.raises(InputError, match="no row came"):
        next(found)


def test_a_stream_hands_on_its_rows_and_errors():
    def bad():
        yield from ({"n": n} for n in range(600))
        raise KeyError("broken")

    found = rows.watched(bad, lambda: None)
    assert [next(found)["n"] for _ in range(600)] == list(range(600))
    with pytest.raises(KeyError, match="broken"):
        next(found)
    assert list(rows.watched(lambda: iter(()), lambda: None)) == []
