"""Tiny random checkpoints in the formats of the real ones, for tests.

Models as ``transformers`` saves them, SAEs as their authors did: SAELens
before its version 6 (gpt2-small-res-jb), OpenAI's v5 as SAELens republished
them, Gemma Scope's npz and Gemma Scope 2's safetensors. Weights are drawn
from a seed; what the tests look at is the formats.
"""

import functools
import io
import json
import tempfile
from pathlib import Path

import numpy as np
import torch

from tests.hub import Repository

LAYERS, WIDTH, HEADS, CONTEXT = 5, 32, 4, 64
TEXT = [
    "The quick brown fox jumps over the lazy dog, and 12 more of them do.",
    "Sphinx of black quartz: judge my vow! Pack my box with five dozen jugs.",
    "def f(x):\n    return x + 1\n", "El veloz murciélago hindú comía feliz.",
]  # fmt: skip


def gpt2_tokenizer():
    """Byte-level BPE; <|endoftext|> is the last token, as in GPT-2."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from tokenizers.trainers import BpeTrainer

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=299, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer


def gemma_tokenizer(specials=("<pad>", "<eos>", "<bos>", "<unk>"), bos="<bos>"):
    """BPE over characters with byte fallback, spaces as U+2581; it puts the
    beginning-of-sequence token before every text. Llama's is the same with
    other special tokens."""
    from tokenizers import Tokenizer, decoders, models, normalizers, processors
    from tokenizers.trainers import BpeTrainer

    tokenizer = Tokenizer(models.BPE(
        byte_fallback=True, unk_token="<unk>", fuse_unk=True
    ))  # fmt: skip
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace("\u2581", " "), decoders.ByteFallback(),
        decoders.Fuse(),
    ])  # fmt: skip
    raw = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = BpeTrainer(
        vocab_size=400, special_tokens=[*specials, *raw], show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = content["added_tokens"][: len(specials)]
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A",
        special_tokens=[(bos, tokenizer.token_to_id(bos))],
    )
    return tokenizer


def _gpt2_text() -> dict[str, bytes]:
    tokenizer = gpt2_tokenizer()
    content = json.loads(tokenizer.to_str())
    merges = "\n".join(" ".join(m) for m in content["model"]["merges"])
    vocabulary = tokenizer.get_vocab()
    return {
        "tokenizer.json": tokenizer.to_str().encode(),
        "tokenizer_config.json": b'{"model_max_length": 1024}',
        "vocab.json": json.dumps(vocabulary).encode(),
        "merges.txt": f"#version: 0.2\n{merges}\n".encode(),
    }


def _gemma_text() -> dict[str, bytes]:
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>",
             "unk_token": "<unk>"}  # fmt: skip
    settings = names | {"add_bos_token": True, "add_eos_token": False,
                        "tokenizer_class": "GemmaTokenizer"}  # fmt: skip
    return {
        "tokenizer.json": gemma_tokenizer().to_str().encode(),
        "tokenizer_config.json": json.dumps(settings).encode(),
        "special_tokens_map.json": json.dumps(names).encode(),
    }


def _llama_text() -> dict[str, bytes]:
    tokenizer = gemma_tokenizer(("<unk>", "<s>", "</s>"), "<s>")
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    settings = names | {"tokenizer_class": "PreTrainedTokenizerFast"}
    return {
        "tokenizer.json": tokenizer.to_str().encode(),
        "tokenizer_config.json": json.dumps(settings).encode(),
    }


TEXTS = {"gpt2": _gpt2_text, "llama": _llama_text}


def shape(width: int = WIDTH, context: int = CONTEXT) -> dict:
    """Sizes in the names that all but GPT-2's configuration use."""
    return dict(
        hidden_size=width, intermediate_size=2 * width,
        num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        num_key_value_heads=2, head_dim=width // HEADS,
        max_position_embeddings=context,
    )  # fmt: skip


@functools.cache
def model_files(
    kind: str, seed: int = 0, shard: str = "5GB", width: int = WIDTH,
    context: int = CONTEXT,
):  # fmt: skip
    """The files of a tiny model: gpt2, llama, gemma, gemma2 or gemma3."""
    import transformers

    text = TEXTS.get(kind, _gemma_text)()
    size = json.loads(text["tokenizer.json"])["model"]["vocab"]
    size = len(size) + (kind == "gpt2")  # <|endoftext|> is an added token
    common = shape(width, context) | {"vocab_size": size}
    kinds = {
        "gpt2": lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(
            vocab_size=size, n_positions=context, n_embd=width,
            n_layer=LAYERS, n_head=HEADS,
            bos_token_id=size - 1, eos_token_id=size - 1)),
        "llama": lambda: transformers.LlamaForCausalLM(
            transformers.LlamaConfig(**common)),
        "gemma": lambda: transformers.GemmaForCausalLM(
            transformers.GemmaConfig(**common)),
        "gemma2": lambda: transformers.Gemma2ForCausalLM(
            transformers.Gemma2Config(**common, sliding_window=32)),
        "gemma3": lambda: transformers.Gemma3ForCausalLM(
            transformers.Gemma3TextConfig(**common, sliding_window=32)),
    }  # fmt: skip
    torch.manual_seed(seed)
    model = kinds[kind]()
    with torch.no_grad():  # biases and norms start at 0 and 1: move them
        for value in model.parameters():
            value.add_(0.02 * torch.randn_like(value))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, max_shard_size=shard)
        files = {p.name: p.read_bytes() for p in Path(folder).iterdir()}
    return files | text


def model_folder(kind: str, folder: Path, seed: int = 0, **size) -> Path:
    """The same as a folder on disk."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in model_files(kind, seed, **size).items():
        (folder / name).write_bytes(content)
    return folder


def _safetensors(tensors: dict) -> bytes:
    from safetensors.torch import save

    return save({k: v.contiguous() for k, v in tensors.items()})


def sae_tensors(seed: int, d_in: int = WIDTH, d_sae: int = 4 * WIDTH) -> dict:
    """Random weights in SAELens' names; the decoder's rows are unit."""
    random = torch.Generator().manual_seed(seed)
    rows = torch.randn(d_sae, d_in, generator=random)
    rows /= rows.norm(dim=1, keepdim=True)
    return {
        "W_enc": rows.T + 0.1 * torch.randn(d_in, d_sae, generator=random),
        "b_enc": 0.1 * torch.randn(d_sae, generator=random),
        "W_dec": rows,
        "b_dec": 0.1 * torch.randn(d_in, generator=random),
    }


def res_jb(layers=range(LAYERS)) -> Repository:
    """jbloom/GPT2-Small-SAEs-Reformatted: configs of SAELens 3."""
    files = {}
    for layer in layers:
        name = f"blocks.{layer}.hook_resid_pre"
        config = {
            "model_name": "gpt2-small", "hook_point": name,
            "hook_point_layer": layer, "hook_point_head_index": None,
            "dataset_path": "Skylion007/openwebtext", "context_size": 128,
            "d_in": WIDTH, "d_sae": 4 * WIDTH, "dtype": "torch.float32",
            "device": "mps", "l1_coefficient": 8e-05, "lr": 0.0004,
        }  # fmt: skip
        tensors = sae_tensors(layer)
        files[f"{name}/cfg.json"] = json.dumps(config).encode()
        files[f"{name}/sae_weights.safetensors"] = _safetensors(tensors)
        files[f"{name}/sparsity.safetensors"] = _safetensors(
            {"sparsity": torch.zeros(4 * WIDTH)})  # fmt: skip
    return Repository(files)


def openai_v5(layers=range(LAYERS)) -> Repository:
    """jbloom/GPT2-Small-OAI-v5-32k-resid-post-SAEs: TopK, layer norm."""
    files = {}
    for layer in layers:
        folder = f"v5_32k_layer_{layer}.pt"
        config = {
            "architecture": "standard", "d_in": WIDTH, "d_sae": 4 * WIDTH,
            "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 8},
            "apply_b_dec_to_input": True, "finetuning_scaling_factor": False,
            "context_size": 64, "model_name": "gpt2-small",
            "hook_name": f"blocks.{layer}.hook_resid_post",
            "hook_layer": layer, "hook_head_index": None,
            "prepend_bos": False, "dataset_path": "Skylion007/openwebtext",
            "normalize_activations": "layer_norm", "dtype": "torch.float32",
            "device": "cpu", "sae_lens_training_version": None,
        }  # fmt: skip
        tensors = sae_tensors(100 + layer)
        files[f"{folder}/cfg.json"] = json.dumps(config).encode()
        files[f"{folder}/sae_weights.safetensors"] = _safetensors(tensors)
    return Repository(files)


def gemma_scope() -> Repository:
    """google/gemma-scope-2b-pt-res: one npz for each SAE."""
    files = {}
    for layer, l0 in ((0, 105), (1, 102)):
        tensors = sae_tensors(200 + layer) | {
            "threshold": torch.full((4 * WIDTH,), 0.2)
        }
        stream = io.BytesIO()
        np.savez(stream, **{k: v.numpy() for k, v in tensors.items()})
        folder = f"layer_{layer}/width_16k/average_l0_{l0}"
        files[f"{folder}/params.npz"] = stream.getvalue()
    return Repository(files, licence="cc-by-4.0")


def gemma_scope_2(layers=(3,)) -> Repository:
    """google/gemma-scope-2-270m-pt: config.json and params.safetensors."""
    files = {}
    for layer in layers:
        folder = f"resid_post_all/layer_{layer}_width_16k_l0_small"
        tensors = sae_tensors(300 + layer)
        tensors = {k.lower(): v for k, v in tensors.items()}
        tensors["threshold"] = torch.full((4 * WIDTH,), 0.2)
        config = {
            "architecture": "jump_relu", "l0": 20, "width": 4 * WIDTH,
            "model_name": "google/gemma-3-270m-pt",
            "hf_hook_point_in": f"model.layers.{layer}.output",
        }  # fmt: skip
        files[f"{folder}/config.json"] = json.dumps(config).encode()
        files[f"{folder}/params.safetensors"] = _safetensors(tensors)
    return Repository(files, licence="cc-by-4.0")


def text_rows(count: int = 400) -> Repository:
    """A data set of jsonl rows, as its authors would upload it."""
    rows = [
        json.dumps({"text": f"Row {n}. {TEXT[n % len(TEXT)]} " * 3})
        for n in range(count)
    ]
    parts = ["\n".join(rows[i::2]).encode() + b"\n" for i in range(2)]
    files = {f"data/train-{i}.jsonl": part for i, part in enumerate(parts)}
    return Repository(files, kind="datasets", licence="odc-by")


def repositories() -> dict[str, Repository]:
    """All of them under their true names; gated where the true ones are.

    Beside what is needed lie formats that nobody is to download.
    """
    unwanted = {"pytorch_model.bin": b"x" * 4096, "README.md": b"# card\n"}
    return {
        "openai-community/gpt2": Repository(model_files("gpt2") | unwanted),
        "distilbert/distilgpt2": Repository(
            model_files("gpt2", 1) | unwanted, licence="apache-2.0"),
        "google/gemma-2b": Repository(
            model_files("gemma", 0, "60KB"), "gemma", "hf_allowed"),
        "google/gemma-2-2b": Repository(
            model_files("gemma2"), "gemma", "hf_allowed"),
        "google/gemma-3-270m": Repository(
            model_files("gemma3"), "gemma", "hf_allowed"),
        "jbloom/GPT2-Small-SAEs-Reformatted": res_jb(),
        "jbloom/GPT2-Small-OAI-v5-32k-resid-post-SAEs": openai_v5(),
        "google/gemma-scope-2b-pt-res": gemma_scope(),
        "google/gemma-scope-2-270m-pt": gemma_scope_2(),
        "monology/pile-uncopyrighted": text_rows(),
    }  # fmt: skip
