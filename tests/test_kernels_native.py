"""What only the compiled kernels promise: order of ties, threads, cache."""

import os
import subprocess
import sys
import threading
import warnings

import pytest
import torch

from helpers import kernels
from helpers.kernels import build, library, memory, native, reference
from helpers.kernels.types import ends
from tests.test_kernels import draw, weights

try:
    native.load()
except (OSError, subprocess.SubprocessError) as problem:
    pytest.skip(f"no native kernels here: {problem}", allow_module_level=True)

DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    yield lambda count: torch.set_num_threads(count)
    torch.set_num_threads(before)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty cache of its own, and a source that compiles fast."""
    source = tmp_path / "small.cpp"
    source.write_text('extern "C" int one() { return 1; }')
    monkeypatch.setattr(build, "SOURCE", source)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return build.cache_folder()


def first(pre, k):
    """Indices of the k largest, the first of equal ones, by definition."""
    order = pre.sort(dim=1, descending=True, stable=True)[1]
    return order[:, :k].sort(1)[0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width,k", [(4096, 32), (4099, 5), (40, 39)])
def test_of_equal_values_the_first_win(dtype, width, k):
    pre = ((draw(20, width) * 2).round() + 0.0).to(dtype)  # no -0
    pre[0] = 0
    pre[1] = -1
    assert torch.equal(native.top_k(pre, k)[1], first(pre, k))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d_in", [5, 32, 300, 583])  # odd ends of vectors
def test_sums_of_rows_are_matrix_products(dtype, d_in):
    """Operands in the precision of the products, sums in float32."""
    tokens, d_sae = 50, 90
    x, low = draw(tokens, d_in), weights(d_in, d_sae).W_dec.to(dtype)
    f = draw(tokens, d_sae, seed=7).sub(1).relu()  # 0, 1, ... listed
    f[:4] = 0
    codes = library.Codes(
        ends((f != 0).sum(1)), f.nonzero()[:, 1].int(), f[f != 0]
    )
    decoded = library.Decoded(x, [d_sae], dtype)
    low = kernels.Matrices(low.T, low)
    slopes = decoded.fill(slice(None), x, x[0].clone(), codes, low)
    sums = library.Sums(d_sae, d_in)
    sums.gather(codes, slopes, decoded, x.to(dtype))

    def exact(part):
        return part.to(dtype).double()

    rise, d_pre = exact(decoded.slope[0]), torch.zeros(f.shape)
    d_pre[f != 0] = slopes
    for found, expected in [
        (decoded.error, exact(f) @ exact(low.W_dec) + x[0] - x),
        (decoded.slope[0].float() / decoded.scale, decoded.error),
        (slopes, (rise @ exact(low.W_enc))[f != 0]),
        (sums.W_dec, exact(f).T @ rise),
        (sums.W_enc, exact(d_pre).T @ exact(x)),
    ]:
        rtol = 5e-3 if expected is decoded.error else 1e-5  # it is rounded
        torch.testing.assert_close(
            found.double(), expected.double(), atol=1e-5, rtol=rtol
        )


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_number_of_threads_gives_the_same_bits(dtype, two_threads):
    x, w = draw(700, 33), weights(33, 300)
    adam = {}
    found = {}
    for threads in (1, 2, 3):
        two_threads(threads)
        pre = draw(700, 300).to(dtype)
        sparse = w._replace(b_enc=w.b_enc - 3.5)
        parts = [native.top_k(pre, 7)[1]]
        for result in (
            native.topk_step(x, w, 5, dtype),
            native.relu_step(x, w, 0.1, dtype),
            native.relu_step(x, sparse, 0.1, dtype),
        ):
            parts += [result.error, result.firings, *result.gradients]
        copies = {n: p.clone() for n, p in w._asdict().items()}
        adam = native.Adam(copies, dtype=dtype)
        adam.step(0.01, result.gradients)
        found[threads] = parts + list(copies.values())
    for threads in (2, 3):
        for one, more in zip(found[1], found[threads], strict=True):
            assert torch.equal(one, more)


def test_repeating_a_step_leaves_earlier_results_alone():
    x, w = draw(4096, 64), weights(64, 4096)
    result = native.topk_step(x, w, 4, torch.bfloat16)
    kept = [part.clone() for part in result.gradients]
    for _ in range(3):
        native.topk_step(-x, w, 4, torch.bfloat16)
    for part, copy in zip(result.gradients, kept, strict=True):
        assert torch.equal(part, copy)


def test_memory_is_handed_out_again_once_free():
    held = memory.empty(1024, 512)
    place, view = held.data_ptr(), held.T[3:]
    del held
    assert memory.empty(1024, 512).data_ptr() != place  # the view lives on
    del view
    again = [memory.empty(1024, 512) for _ in range(2)]
    assert place in [part.data_ptr() for part in again]


def test_stale_memory_is_given_back():
    del_me = memory.empty(3001, 512)
    size = del_me.numel() * 4
    del del_me
    for _ in range(memory.STALE):
        memory.empty(1024, 512)
    memory.empty(3002, 512)
    assert memory._store.blocks[size] == []


def script(code, **environment):
    """Run Python apart; its output."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_the_second_load_compiles_nothing(folder, monkeypatch):
    assert build.load().one() == 1
    (library,) = folder.iterdir()
    monkeypatch.setattr(build, "_compile", None)
    assert build.load().one() == 1
    assert list(folder.iterdir()) == [library]


def test_a_damaged_library_is_made_again(folder, monkeypatch):
    copied = []
    good = build._compile

    def compile_once(compiler, path):
        copied.append(path)
        good(compiler, path)

    monkeypatch.setattr(build, "_compile", compile_once)
    folder.mkdir(parents=True)
    path = folder / f"kernels-{build._key(build.find_compiler())}.so"
    path.write_bytes(b"half a library")
    build.load()
    assert copied == [path] and build._is_whole(path)


def test_two_loads_at_once(folder):
    errors = []

    def load():
        try:
            build.load()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    (library,) = folder.iterdir()
    assert build._is_whole(library)


FALLBACK = """
import warnings
import torch
from helpers import kernels
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    for _ in range(2):
        print(kernels.top_k(torch.arange(6.0)[None], 2)[0].tolist())
print(kernels.backend(), len(seen), seen[0].message)
"""


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false"])
def test_without_a_compiler_one_warning_and_the_reference(compiler, tmp_path):
    said = script(
        FALLBACK, CXX=compiler, XDG_CACHE_HOME=str(tmp_path), BOOK_KERNELS=""
    )
    assert said.count("[5.0, 4.0]") == 2
    assert "reference 1 the CPU's native kernels could not" in said


FORK = """
import os
import torch
from helpers.kernels import native
native.load()
torch.set_num_threads(2)
pre = torch.randn(600, 400)
expected = native.top_k(pre, 9)[1]
if (child := os.fork()) == 0:
    os._exit(0 if torch.equal(native.top_k(pre, 9)[1], expected) else 3)
print(os.waitpid(child, 0)[1])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_goes_on_alone():
    assert script(FORK).split()[-1] == "0"


def parameters():
    """Four weights as an SAE stores them, and one parameter more."""
    w = weights(33, 50)
    made = {n: p.clone() for n, p in w._asdict().items()}
    made["threshold"] = draw(50)
    return made


def gradient(step, like):
    """A gradient with latents that get none, as most steps have."""
    made = {
        name: draw(*value.shape, seed=100 + 10 * step + i)
        for i, (name, value) in enumerate(like.items())
    }
    made["W_dec"][step % 50 :: 3] = 0
    return made


@pytest.mark.parametrize("dtype", DTYPES)
def test_adam_is_that_of_torch(dtype):
    ours, theirs = parameters(), parameters()
    fast = native.Adam(ours, (0.9, 0.99), dtype)
    plain = reference.Adam(theirs, (0.9, 0.99), dtype)
    for step in range(50):
        slopes = gradient(step, ours)
        rate = 1e-3 * (step + 1) / 50
        fast.step(rate, slopes)
        plain.step(rate, slopes)
    for name, value in ours.items():
        torch.testing.assert_close(
            value, theirs[name], atol=1e-6, rtol=1e-5, msg=name
        )
    length = ours["W_dec"].norm(dim=1)
    assert (length - 1).abs().max() < 1e-6
    if dtype == torch.bfloat16:
        for name, low in fast.low._asdict().items():
            assert torch.equal(low, ours[name].to(dtype)), name


def test_reference_adam_is_project_step_renormalise():
    ours, theirs = parameters(), parameters()
    adam = reference.Adam(ours, (0.9, 0.99))
    other = torch.optim.Adam(theirs.values(), lr=1e-3, betas=(0.9, 0.99))
    for step in range(5):
        slopes = gradient(step, ours)
        adam.step(1e-3, slopes)
        for name, value in theirs.items():
            value.grad = slopes[name].clone()
        rows, slope = theirs["W_dec"], theirs["W_dec"].grad
        slope -= (slope * rows).sum(1, keepdim=True) * rows
        other.step()
        rows /= rows.norm(dim=1, keepdim=True)
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", [native.Adam, reference.Adam])
def test_adam_resumes_bit_for_bit(kind):
    straight = parameters()
    adam = kind(straight, dtype=torch.bfloat16)
    for step in range(8):
        if step == 4:
            state = {n: v.contiguous() for n, v in adam.state_dict().items()}
            state = {n: v.clone() for n, v in state.items()}
            resumed = {n: v.clone() for n, v in straight.items()}
        adam.step(0.01, gradient(step, straight))
    again = kind(resumed, dtype=torch.bfloat16)
    again.load_state_dict(state)
    for step in range(4, 8):
        again.step(0.01, gradient(step, resumed))
    for name, value in straight.items():
        assert torch.equal(value, resumed[name]), name
    for one, other in zip(adam.low, again.low, strict=True):
        assert torch.equal(one, other)


def test_adam_moments_can_be_reset_and_copies_renewed():
    made = parameters()
    adam = native.Adam(made, dtype=torch.bfloat16)
    adam.step(0.01, gradient(0, made))
    for value in adam.moments("W_enc").values():
        assert value.shape == made["W_enc"].shape and value[:, 1].any()
        value[:, 1] = 0
    before = made["W_enc"].clone()
    zeros = {n: torch.zeros_like(v) for n, v in made.items()}
    adam.step(0.01, zeros)
    moved = (made["W_enc"] != before).any(0)
    assert not moved[1] and moved[2:].all()
    made["W_enc"].fill_(3)
    adam.refresh()
    assert (adam.low.W_enc == 3).all()


def test_the_native_library_loads_without_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kernels._compiles()
