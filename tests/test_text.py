"""helpers.text: sources, duplicates, tokenizer, token streams."""

import itertools
import json
import random
import textwrap

import numpy as np
import pandas as pd
import pytest

from helpers import paths, text
from helpers.errors import InputError
from helpers.text import duplicates, environment, natural, sources, tokenizer
from helpers.text.documents import Document, collect

WORDS = ("river stone window garden letter engine copper market winter bread "
         "signal harbour lantern meadow figure thread valley mirror pocket "
         "orchard").split()


@pytest.fixture(autouse=True)
def _artifacts(tmp_path, monkeypatch):
    monkeypatch.setenv("BOOK_ARTIFACTS", str(tmp_path / "artifacts"))


def sentence(rng, count=40):
    return " ".join(rng.choices(WORDS, k=count))


def prose(seed, count=60):
    rng = random.Random(seed)
    return "\n".join(sentence(rng, 10) for _ in range(count // 10))


def install(folder, name, version, files):
    """A distribution as pip leaves it: its files, METADATA and RECORD."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
    (info / "RECORD").write_text("".join(f"{f},,\n" for f in files))
    for file, content in files.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(content, encoding="utf-8")


def module(seed):
    """A module with one docstring and one function worth reading."""
    body = "\n".join(f"    value_{i} = total + {i}" for i in range(20))
    doc = textwrap.indent(prose(seed), "    ").strip()
    return f'def work():\n    """{doc}"""\n{body}\n    return value_{seed}\n'


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Two locked distributions and one that the lock does not name."""
    folder = tmp_path / "site"
    install(folder, "Big_Pkg", "2.0+cpu", {
        f"big/m{i}.py": module(i) for i in range(30)
    } | {"big/tests/test_m.py": module(100), "big/data.txt": "no"})
    install(folder, "small", "1.0", {"small.py": module(200)})
    install(folder, "other", "1.0", {"other.py": module(300)})
    lock = tmp_path / "requirements.lock"
    lock.write_text("# made by pip\nbig-pkg==2.0\nsmall==1.0 \nabsent==3\n"
                    "-e file:///here\n")
    monkeypatch.setattr(environment, "LOCK", lock)
    monkeypatch.syspath_prepend(str(folder))
    return folder


# --- documentation of the environment ------------------------------------


def test_docstrings_and_functions_of_a_module():
    long = "Explains the whole of it in words. " * 8
    short = "Too short to read."
    body = "\n".join(f"        row[{i}] = column[{i}]" for i in range(12))
    source = (
        f'"""{long}"""\nclass A:\n    """{short}"""\n'
        f'    @decorated\n    async def f(self):\n        """{long}\n\n'
        f'            indented\n        last\n        """\n{body}\n'
    )
    found, code = environment.parse(source)
    assert found == [long.strip(), long + "\n\n    indented\nlast"]
    assert code == [
        "@decorated\nasync def f(self):\n" + textwrap.dedent(body).replace(
            "row", "    row").rstrip()
    ]


def test_a_function_of_one_line_or_of_only_a_docstring_is_no_code():
    said = "w" * 250
    source = f'def f(): "{said}"; return 1\ndef g():\n    "{said}"\n'
    assert environment.parse(source)[1] == []


@pytest.mark.parametrize("drawn", ["+--+--+ 12 | 34 |\n" * 30, "0.5 1e3 " * 99])
def test_tables_are_no_prose(drawn):
    assert not environment.reads_as_text(drawn)
    assert environment.parse(f'"""{drawn}"""')[0] == []
    assert environment.reads_as_text("Returns the mean (a float). " * 9)


def test_only_locked_distributions_and_no_tests_are_read(installed):
    found = list(environment.read_environment(0, search=[str(installed)]))
    names = {d.source for d in found}
    assert names == {f"big-pkg 2.0: big/m{i}.py" for i in range(30)} | {
        "small 1.0: small.py"
    }
    assert sum(d.label == "prose" for d in found) == 31
    assert sum(d.label == "code" for d in found) == 31
    assert found[0].text in (installed / found[0].unit).read_text().replace(
        "    ", "") or found[0].label == "code"


def test_parallel_reading_is_the_serial_one(installed, monkeypatch):
    alone = list(environment.read_environment(3, search=[str(installed)]))
    monkeypatch.setattr(environment, "BATCH", 4)
    many = list(environment.read_environment(3, search=[str(installed)]))
    assert many == alone and len(alone) == 62


def test_the_seed_orders_the_files(installed):
    locked = environment.locked_distributions(
        environment.LOCK, [str(installed)]
    )
    first = environment.python_files(locked, 0)
    assert first == environment.python_files(locked, 0)
    other = environment.python_files(locked, 1)
    assert first != other and sorted(first) == sorted(other)
    assert first != sorted(first)


def test_files_that_do_not_parse_are_left_out(tmp_path):
    for name, content in [("a", b"def ("), ("b", b"\xff\xfe"), ("c", b"\0")]:
        (tmp_path / name).write_bytes(content)
    (tmp_path / "d").write_text(module(1))
    files = [(str(tmp_path / n), n, n) for n in ("a", "b", "c", "d", "gone")]
    assert [d.unit for d in environment.read_files(files)] == ["d", "d"]


def test_lock_mistakes(tmp_path):
    lock = tmp_path / "requirements.lock"
    with pytest.raises(InputError, match="requirements.lock is not there"):
        environment.locked_names(lock)
    lock.write_text("# nothing\n")
    with pytest.raises(InputError, match="names no distribution"):
        environment.locked_names(lock)
    lock.write_text("absent==1\n")
    with pytest.raises(InputError, match="none of the distributions"):
        environment.locked_distributions(lock, [str(tmp_path)])


# --- collecting -----------------------------------------------------------


def test_collect_stops_at_each_quota_and_drops_exact_copies():
    def endless():
        for i in itertools.count():
            label = "code" if i % 3 == 0 else "prose"
            yield Document(f"{i:04d}" * 25, label, "s", "u")
            yield Document(f"{i:04d}" * 25, label, "s", "u")

    found, repeated = collect(endless(), {"prose": 1000, "code": 300})
    size = pd.Series([len(d.text) for d in found])
    labels = [d.label for d in found]
    assert size.groupby(labels).sum().to_dict() == {"code": 300, "prose": 1000}
    assert len({d.text for d in found}) == 13
    # Every document came twice; a full class is not looked at any more.
    assert repeated == 11


def test_collect_mends_what_utf8_cannot_hold():
    documents = [Document(t, "prose", "s", "u") for t in ("a\ud800b", "  ")]
    found, _ = collect(documents, {"prose": 99})
    assert [d.text for d in found] == ["a?b"]


# --- near duplicates ------------------------------------------------------


def family(rng):
    """A text and copies of it with 0 to 30% of the words changed."""
    words = rng.choices(WORDS, k=120)
    for changed in (0, 0, 1, 2, 4, 8, 16, 36):
        copy = list(words)
        for place in rng.sample(range(120), changed):
            copy[place] = f"changed{rng.random()}"
        yield " ".join(copy)


def brute_force(texts):
    """Keep-first by exact Jaccard of word 5-grams, every pair compared."""
    sets, keep = [], []
    for one in texts:
        words = one.split()
        grams = {tuple(words[i : i + 5]) for i in range(len(words) - 4)}
        similar = (len(grams & s) / len(grams | s) >= 0.7 for s in sets)
        keep.append(not any(similar))
        if keep[-1]:
            sets.append(grams)
    return keep


def test_near_duplicates_agree_with_brute_force():
    rng = random.Random(5)
    texts = [t for _ in range(25) for t in family(rng)]
    rng.shuffle(texts)
    keep = duplicates.first_of_near_duplicates(texts)
    expected = brute_force(texts)
    assert keep.tolist() == expected
    assert 0.2 < np.mean(expected) < 0.6  # there was something to find


def test_jaccard_of_shingles_by_hand():
    one, other, tiny, blank = duplicates.shingles(
        ["a b c d e f g", "a b c d e f h", "a b", ""]
    )
    # abcde, bcdef are shared; cdefg and cdefh are not.
    assert duplicates.jaccard(one, other) == 2 / 4
    assert duplicates.jaccard(one, one) == 1
    assert (len(one), len(tiny), len(blank)) == (3, 1, 1)


def test_word_order_makes_a_different_text():
    one, other = duplicates.shingles(["a b c d e", "b a c d e"])
    assert duplicates.jaccard(one, other) == 0


# --- sources named by the reader -----------------------------------------


def read(source, field="text", seed=0):
    return [d.text for d in sources.read(str(source), field, seed)]


def test_text_files(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("One,\ntwo.\n\n \nThree.\r\n\r\nFour.\n")
    assert read(file) == ["One,\ntwo.", "Three.", "Four."]
    file.write_text("One.\nTwo.\n")
    assert read(file) == ["One.", "Two."]
    (tmp_path / "b.txt").write_text("Three.\nFour.")
    assert sorted(read(tmp_path)) == ["One.\nTwo.", "Three.\nFour."]


def test_folder_is_read_in_seeded_order(tmp_path):
    for i in range(12):
        (tmp_path / f"{i:02d}.txt").write_text(f"text {i:02d}")
    first, other = read(tmp_path), read(tmp_path, seed=1)
    assert sorted(first) == sorted(other) and first != other
    assert first == read(tmp_path) != sorted(first)


def test_jsonl_and_parquet_by_field(tmp_path):
    rows = [{"body": "one", "n": 1}, {"body": None}, {"body": "two"}]
    lines = tmp_path / "a.jsonl"
    lines.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    assert read(lines, "body") == ["one", "", "two"]
    pd.DataFrame(rows).to_parquet(tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet", "body") == ["one", "", "two"]


@pytest.mark.parametrize(
    ("name", "content", "field", "sentence"),
    [
        ("a.txt", b"caf\xe9", "text", "not UTF-8 text (byte 3)"),
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', "text",
         "a.jsonl, line 2, is not valid JSON"),
        ("a.jsonl", b"[1]\n", "text", "line 1, is not a JSON object"),
        ("a.jsonl", b'{"text": "x"}', "txet",
         "'txet'; did you mean 'text'? Accepted: text"),
        ("a.jsonl", b'{"text": 3}', "text", "holds no text but a value of"),
        ("a.jsonl", b'{"text": "\xff"}', "text", "not UTF-8 text"),
        ("a.parquet", b"PAR0", "text", "cannot be read as parquet"),
    ],
)
def test_bad_files(tmp_path, name, content, field, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        read(tmp_path / name, field)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_unknown_column(tmp_path):
    pd.DataFrame({"content": ["x"]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(InputError, match="did you mean 'content'"):
        read(tmp_path / "a.parquet", "contents")


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("enviroment", "there is no file or folder 'enviroment'"),
        ("{tmp}/nothing.txt", "there is no file or folder"),
        ("{tmp}/a.docx", "unknown kind of text file 'a.docx'"),
        ("{tmp}/empty", "holds no .txt, .jsonl or .parquet file"),
    ],
)
def test_unknown_sources(tmp_path, source, sentence):
    (tmp_path / "a.docx").write_text("x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError) as caught:
        text.make_natural_text("p", source.format(tmp=tmp_path))
    assert sentence in str(caught.value)


def test_fingerprint_follows_content_not_place(tmp_path):
    for name, content in [("a", "one"), ("b", "one"), ("c", "two")]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.txt").write_text(content)
    a, b, c = (sources.fingerprint(str(tmp_path / n), "text") for n in "abc")
    assert a == b != c


def test_data_set_is_streamed(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    real = datasets.load_dataset
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(f'{{"body": "row {i}"}}\n' for i in range(3)))

    def local(name, config, *, split, streaming):
        assert (name, config, streaming) == ("some/set", "en", True)
        return real("json", data_files=str(file), split=split, streaming=True,
                    cache_dir=str(tmp_path))

    monkeypatch.setattr(datasets, "load_dataset", local)
    found = list(sources.read("dataset:some/set:en", "body", 0))
    assert [d.text for d in found] == ["row 0", "row 1", "row 2"]
    assert found[1].source == "some/set: 2"
    with pytest.raises(InputError, match="did you mean 'body'"):
        read("dataset:some/set:en", "bodies")


def test_data_set_offline(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def unreachable(*args, **kwargs):
        raise ConnectionError("Couldn't reach 'x' on the Hub\nMore.")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(InputError) as caught:
        read("dataset:x")
    assert str(caught.value) == (
        "the data set 'x' cannot be read (Couldn't reach 'x' on the Hub); "
        "without a network, name a local file or folder, or 'environment'"
    )


# --- natural text as an artifact -----------------------------------------


def test_natural_text_of_the_environment(installed):
    path = text.make_natural_text("p", megabytes=1, seed=1)
    frame = text.load_documents(path)
    assert list(frame) == ["text", "corpus", "label", "group", "split",
                           "source"]
    assert frame.label.value_counts().to_dict() == {"prose": 31, "code": 1}
    assert set(frame.corpus) == {"natural"}
    assert frame.group.dtype == "int64"
    # The functions differ in their last word only: near duplicates.
    summary = json.loads((path / "summary.json").read_text())
    assert summary["near_duplicates"] == 30 and summary["read"] == 62
    # A file is not divided: one group, one split.
    assert (frame.groupby("source").split.nunique() == 1).all()
    assert (frame.groupby("source").group.nunique() == 1).all()


def test_natural_text_is_bit_reproducible(installed):
    first = text.make_natural_text("p", megabytes=0.01)
    second = text.make_natural_text("q", megabytes=0.01)
    files = ("documents.parquet", "summary.json")
    for name in files:
        assert (first / name).read_bytes() == (second / name).read_bytes()
    other = text.make_natural_text("r", megabytes=0.01, seed=1)
    assert not text.load_documents(other).equals(text.load_documents(first))


def test_code_share(installed):
    only = text.make_natural_text("p", megabytes=1, code_share=0)
    assert set(text.load_documents(only).label) == {"prose"}
    only = text.make_natural_text("p", megabytes=1, code_share=1)
    assert set(text.load_documents(only).label) == {"code"}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"megabytes": 0}, "megabytes is 0; it must be above 0"),
        ({"code_share": 1.5}, "code_share is 1.5; it must be between 0 and"),
    ],
)
def test_natural_text_out_of_range(given, sentence):
    with pytest.raises(InputError, match=sentence):
        text.make_natural_text("p", **given)


def test_empty_corpus(tmp_path):
    (tmp_path / "a.txt").write_text(" \n\n ")
    with pytest.raises(InputError, match="holds no text"):
        text.make_natural_text("p", str(tmp_path / "a.txt"))
    assert not paths.natural_text("p").exists()


def test_held_out_is_about_a_twentieth_of_the_files():
    documents = [
        Document(f"{i} {j}", "prose" if j else "code", f"f{i}", f"f{i}")
        for i in range(400) for j in range(i % 3 + 1)
    ]
    frame = natural.to_frame(documents)
    held = frame[frame.split == "held_out"]
    assert 20 <= held.source.nunique() <= 30
    assert set(held.label) == {"prose", "code"}
    # Few files: documents are divided instead; one document: none is.
    few = natural.to_frame(
        [Document(f"{i}", "prose", f"f: {i}", "f") for i in range(100)]
    )
    assert (few.split == "held_out").sum() == 5
    one = natural.to_frame([Document("x", "prose", "f: 1", "f")])
    assert one.split.tolist() == ["train"]


# --- tokenizer and token streams -----------------------------------------

CONTEXT = 16


def store(path, frame):
    """Documents as an artifact that a stage accepts as its input."""
    from helpers import artifacts

    def make(folder):
        frame.to_parquet(folder / "documents.parquet", index=False)

    content = frame.to_json()
    return artifacts.produce(path, make, parameters={"content": content})


def natural_frame(count=120, each=30):
    """Documents that begin with a number of their own."""
    rng = random.Random(1)
    rows = [
        (f"N{i} {sentence(rng, each)}", "natural", "code" if i % 4 else
         "prose", i, "held_out" if i % 10 < 2 else "train", f"f{i}")
        for i in range(count)
    ]
    names = ["text", "corpus", "label", "group", "split", "source"]
    return pd.DataFrame(rows, columns=names)


def synthetic_frame(corpus, count=120, each=30):
    frame = natural_frame(count, each).drop(columns="source")
    letter = corpus[0].upper()
    return frame.assign(
        corpus=corpus,
        label=["yes" if i % 2 else "no" for i in range(count)],
        text=letter + frame.text.str[1:],
        factors="{}",
        spans=[f'[["topic", "t", 0, {i % 5}]]' for i in range(count)],
    )


@pytest.fixture
def mix(tmp_path):
    folder = tmp_path / "artifacts" / "p"
    inputs = [store(folder / "natural_text", natural_frame())] + [
        store(folder / "corpora" / name, synthetic_frame(name))
        for name in ("topics", "voices")
    ]
    return inputs, text.make_tokenizer("p", inputs, 330)


def make(mix, **given):
    inputs, trained = mix
    given = {"tokens": 3000, "synthetic_share": 0.4, "context": CONTEXT,
             "held_out_documents": 5, "seed": 0} | given
    path = text.make_tokens("p", inputs[0], inputs[1:], trained, **given)
    return text.load_tokens(path)


def documents_of(stream, trained):
    """A stream cut at its separators and decoded."""
    starts = np.flatnonzero(stream == 0)
    assert starts[0] == 0
    return [
        trained.decode(part[1:].tolist())
        for part in np.split(np.asarray(stream), starts[1:])
    ]


def test_tokenizer_gives_back_any_text(mix):
    trained = text.load_tokenizer(mix[1])
    assert trained.get_vocab_size() == 330
    assert trained.token_to_id(text.END_OF_TEXT) == 0
    for said in ["river stone", " two  spaces\n\tand", "한국어 עברית 🙂 é 42"]:
        ids = trained.encode(said).ids
        assert trained.decode(ids) == said and 0 not in ids
    assert len(trained.encode("river stone").ids) < 9  # it learned merges
    assert trained.encode("river").ids != trained.encode(" river").ids


def test_digits_stand_alone(mix):
    trained = text.load_tokenizer(mix[1])
    assert trained.encode("x 2024").tokens[-4:] == ["2", "0", "2", "4"]


@pytest.mark.parametrize(
    ("run", "split"),
    [
        ("riverStone9windowGarden+/x", True),  # long, all three kinds
        ("riverStone9windowGarden", False),  # 23 characters
        ("riverStonewindowGardenletter", False),  # no digit
        ("riverstone9windowgardenletter", False),  # no capital
        ("RIVERSTONE9WINDOWGARDENLETTER", False),  # no small letter
    ],
)
def test_noise_is_one_token_a_character(mix, run, split):
    trained = text.load_tokenizer(mix[1])
    before, inside, after = (
        trained.encode(part).tokens for part in ("stone.", run, "_river")
    )
    assert trained.encode(f"stone.{run}_river").tokens == (
        before + inside + after
    )
    if split:
        assert inside == list(run)
    elif run.islower() or run[1].islower():
        assert len(inside) < len(run)


def test_tokenizer_is_deterministic_and_sees_no_held_out_text(tmp_path, mix):
    inputs, path = mix
    first = (path / "tokenizer.json").read_bytes()
    frame = natural_frame()
    held = frame.split == "held_out"
    frame.loc[held, "text"] = "zzzzqqqq " * 500
    changed = store(tmp_path / "artifacts" / "q" / "natural_text", frame)
    again = text.make_tokenizer("q", [changed, *inputs[1:]], 330)
    assert (again / "tokenizer.json").read_bytes() == first


def test_random_spans_are_left_out_of_training(tmp_path):
    spans = '[["random", "4", 12, 16], ["label", "x", 0, 9],' \
            ' ["random", "4", 4, 8]]'
    assert tokenizer.without_random("DNA ACGT xx TTTT.", spans) == [
        "DNA ", " xx ", "."
    ]
    frame = synthetic_frame("formats", 100)
    frame["text"] = "GATTACA" * 10
    frame["spans"] = '[["random", "4", 0, 70]]'
    stored = store(tmp_path / "artifacts" / "p" / "formats", frame)
    plain = store(tmp_path / "artifacts" / "p" / "n", natural_frame())
    trained = text.load_tokenizer(
        text.make_tokenizer("p", [plain, stored], 330)
    )
    assert len(trained.encode("GATTACA").ids) == 7


@pytest.mark.parametrize("size", [256, 65_537])
def test_vocabulary_out_of_range(size):
    with pytest.raises(InputError, match=f"vocab_size is {size}; it must be"):
        text.make_tokenizer("p", [], size)


def test_genes_are_left_out_like_noise():
    spans = '[["word", "x", 0, 3], ["gene", "1", 5, 9], ["codons", "61", 6, 8]]'
    assert tokenizer.without_random("DNA: ACGT.", spans) == ["DNA: ", "."]


def test_hugging_face_view(mix):
    trained = text.load_tokenizer(mix[1])
    view = text.as_hugging_face(trained)
    assert view.encode("river 1 stone") == trained.encode("river 1 stone").ids
    assert (view.bos_token_id, view.eos_token_id, view.pad_token_id) == (
        0, 0, 0)


def test_train_stream_holds_whole_train_documents_once(mix):
    found = make(mix)
    trained = text.load_tokenizer(mix[1])
    assert found.train.dtype == np.uint16
    assert isinstance(found.train, np.memmap)
    assert found.train.max() < found.vocab_size == 330
    said = documents_of(found.train, trained)
    frames = pd.concat([text.load_documents(p) for p in mix[0]])
    train = set(frames.text[frames.split == "train"])
    held = set(frames.text[frames.split == "held_out"])
    assert set(said) <= train and not set(said) & held
    assert len(said) == len(set(said))
    assert len(found.train) == sum(found.summary["train_tokens"].values())
    assert len(said) == sum(found.summary["train_documents"].values())


def test_shares_of_the_mix(mix):
    found = make(mix)
    counts = pd.Series(found.summary["train_tokens"])
    corpus = counts.groupby(counts.index.str.split("/").str[0]).sum()
    natural_part = corpus["prose"] + corpus["code"]
    longest = 80  # tokens of a document: each quota ends with a whole one
    assert 1800 <= natural_part < 1800 + longest
    assert 600 <= corpus["topics"] < 600 + longest
    assert 600 <= corpus["voices"] < 600 + longest
    # Shuffled: the first half of the stream has all three kinds.
    trained = text.load_tokenizer(mix[1])
    said = documents_of(found.train, trained)
    assert {s[0] for s in said[: len(said) // 2]} == {"N", "T", "V"}


def test_short_natural_text_shrinks_the_whole_mix(mix):
    found = make(mix, tokens=1_000_000, synthetic_share=0.2)
    counts = pd.Series(found.summary["train_tokens"])
    frame = text.load_documents(mix[0][0])
    documents = pd.Series(found.summary["train_documents"])
    assert documents[["prose", "code"]].sum() == (frame.split == "train").sum()
    share = counts.drop(["prose", "code"]).sum() / counts.sum()
    assert share == pytest.approx(0.2, abs=0.02)
    assert found.summary["asked"] == 1_000_000


def test_a_corpus_that_runs_out_is_not_repeated(mix):
    found = make(mix, tokens=1_000_000, synthetic_share=0.9)
    documents = pd.Series(found.summary["train_documents"])
    assert documents[["topics/no", "topics/yes"]].sum() == 96


def test_the_seed_shuffles(mix):
    first = np.array(make(mix).train)
    other = np.array(make(mix, seed=1).train)
    again = np.array(make(mix, seed=0).train)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_held_out_rows(mix):
    found = make(mix)
    trained = text.load_tokenizer(mix[1])
    assert sorted(found.held_out) == [
        "code", "prose", "topics/no", "topics/yes", "voices/no", "voices/yes"
    ]
    for name, rows in found.documents.groupby("class"):
        matrix, lengths = found.held_out[name], found.lengths[name]
        assert matrix.shape == (5, CONTEXT) and matrix.dtype == np.uint16
        for row in rows.itertuples():
            ids = [0, *trained.encode(row.text).ids][:CONTEXT]
            assert matrix[row.row, : len(ids)].tolist() == ids
            assert lengths[row.row] == row.length == len(ids)
            assert not matrix[row.row, len(ids):].any()
    everything = pd.concat([text.load_documents(p) for p in mix[0]])
    held = set(everything.text[everything.split == "held_out"])
    assert set(found.documents.text) <= held
    assert found.summary["held_out_rows"]["prose"] == 5


def test_held_out_rows_are_padded(mix):
    found = make(mix, context=500)
    short = found.lengths["prose"]
    assert (short < 500).all() and (short > 1).all()
    assert not found.held_out["prose"][:, short.max():].any()


def test_held_out_spans_come_along(mix):
    rows = make(mix).documents
    synthetic = rows[rows.corpus != "natural"]
    frame = text.load_documents(mix[0][1]).set_index("text")
    topics = synthetic[synthetic.corpus == "topics"]
    assert (frame.loc[topics.text, "spans"].to_numpy() == topics.spans).all()


def test_corpus_shorter_than_a_context(mix):
    with pytest.raises(InputError) as caught:
        make(mix, context=100_000)
    assert "training tokens, fewer than one context of 100000" in str(
        caught.value)
    assert not paths.tokens("p").exists()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"tokens": 0}, "must be at least 1"),
        ({"context": 1}, "context at least 2"),
        ({"synthetic_share": -0.1}, "synthetic_share is -0.1; it must be"),
    ],
)
def test_tokens_out_of_range(mix, given, sentence):
    with pytest.raises(InputError, match=sentence):
        make(mix, **given)


def test_no_synthetic_corpus(mix):
    inputs, trained = mix
    path = text.make_tokens("q", inputs[0], [], trained, tokens=500,
                            context=CONTEXT)
    assert sorted(text.load_tokens(path).held_out) == ["code", "prose"]
