import os
import subprocess
import sys
import threading

import pytest
import torch
from threadpoolctl import threadpool_info

from kanlib.errors import BadInputError
from kanlib.machine import (
    device,
    enough_memory,
    generator,
    in_precision,
    one_gpu,
    use_threads,
)
from kanlib.memory import memory, room_for, size

CPU = torch.device("cpu")


def test_the_cpu_is_always_a_device():
    assert device("cpu") == torch.device("cpu")
    assert device("auto").type in {"cuda", "mps", "cpu"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device, so none is missing")
def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(BadInputError, match="device cuda is not available"):
        device("cuda")


def draw(*args):
    return torch.rand(4, generator=generator(*args))


def test_equal_arguments_give_equal_streams(same_global_rng):
    assert torch.equal(draw(0, "masks", "fit"), draw(0, "masks", "fit"))


def test_seed_and_purpose_each_give_another_stream(same_global_rng):
    streams = [draw(0, "a", 1), draw(1, "a", 1), draw(0, "b", 1), draw(0, "a", 2), draw(0, "a", "1"), draw(0, "a")]
    assert len({tuple(s.tolist()) for s in streams}) == len(streams)


def dtype_of_a_product():
    one = torch.ones(2, 2)
    return (one @ one).dtype


def switches():
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


def test_products_are_in_the_asked_precision():
    with in_precision("fp32", CPU):
        assert dtype_of_a_product() == torch.float32
        assert switches() == (False, False)
    with in_precision("bf16", CPU):
        assert dtype_of_a_product() == torch.bfloat16
        assert switches() == (False, False)


def test_tf32_is_for_cuda_only():
    with (
        pytest.raises(BadInputError, match=r"precision tf32 is CUDA's, but the device is cpu"),
        in_precision("tf32", CPU),
    ):
        pass


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_tf32_is_switched_on_and_off_again():
    before = switches()
    with in_precision("tf32", torch.device("cuda")):
        assert switches() == (True, True)
    assert switches() == before


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_failure_leaves_the_precision_as_it_was(precision):
    before = switches()
    with pytest.raises(KeyboardInterrupt), in_precision(precision, CPU):
        raise KeyboardInterrupt
    assert switches() == before
    assert dtype_of_a_product() == torch.float32


REFUSED = "DefaultCPUAllocator: can't allocate memory: you tried to allocate {} bytes."


@pytest.mark.parametrize(
    ("error", "batch_size", "sentence"),
    [
        (torch.OutOfMemoryError("CUDA"), 25, "ran out of memory with batch_size 25; set batch_size to 12"),
        (torch.OutOfMemoryError("CUDA"), 1, "ran out of memory with batch_size 1; set another device"),
        (MemoryError(), 4, "ran out of memory with batch_size 4; set batch_size to 2"),
        (
            RuntimeError(REFUSED.format(4 * 10**13)),
            4,
            "ran out of memory with batch_size 4, which asked for 40 TB more; set batch_size to 2",
        ),
    ],
)
def test_running_out_of_memory_says_what_to_set(error, batch_size, sentence):
    with pytest.raises(BadInputError, match=sentence), enough_memory(batch_size):
        raise error


def test_another_error_is_no_want_of_memory():
    with pytest.raises(RuntimeError, match="shapes differ"), enough_memory(4):
        raise RuntimeError("shapes differ")


def test_what_torch_itself_says_of_too_much_memory_is_understood():
    with pytest.raises(BadInputError, match=r"asked for 4,504 TB more"), enough_memory(2):
        torch.empty(2**50)


def test_what_memory_cannot_hold_is_refused_beforehand():
    room_for(memory() // 2, "masks", "lower n_fit")
    with pytest.raises(
        BadInputError, match=r"^masks take 1,000 TB, and the memory here is \d\S* \w+; lower n_fit\.$"
    ):
        room_for(10**15, "masks", "lower n_fit")


@pytest.mark.parametrize(
    ("n_bytes", "text"), [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (3.1e6, "3.1 MB"), (2e13, "20 TB")]
)
def test_bytes_are_said_as_people_say_them(n_bytes, text):
    assert size(n_bytes) == text


def test_each_of_several_jobs_sees_a_gpu_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    held, let_go = [], threading.Event()
    script = (
        "import sys; from pathlib import Path; from kanlib import machine; import os\n"
        "with machine.one_gpu(Path(sys.argv[1])):\n"
        "    print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); sys.stdin.read()\n"
    )

    def start():
        return subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    with start() as one, start() as other:
        held += [process.stdout.readline().strip() for process in (one, other)]
        assert sorted(held) == ["3", "5"]
        with start() as third:
            waiting = threading.Thread(target=lambda: (held.append(third.stdout.readline().strip()), let_go.set()))
            waiting.start()
            assert not let_go.wait(5)
            one.kill()
            assert let_go.wait(60)
            waiting.join()
            third.stdin.close()
        other.stdin.close()
    assert held[2] == held[0]


def test_what_could_be_seen_before_can_be_seen_again(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    with one_gpu(tmp_path):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "7"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "7"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with one_gpu(tmp_path):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_threads_hold_for_all_linear_algebra():
    before = torch.get_num_threads()
    try:
        use_threads(1)
        pools = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
        assert pools
        assert {torch.get_num_threads(), *pools} == {1}
    finally:
        use_threads(before)
