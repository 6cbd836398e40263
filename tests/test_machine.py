import pytest
import torch

from kanlib.errors import BadInputError
from kanlib.machine import device, enough_memory, generator, in_precision

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


@pytest.mark.parametrize(("batch_size", "less"), [(25, 12), (1, 1)])
def test_running_out_of_memory_says_what_to_set(batch_size, less):
    sentence = f"ran out of memory with batch_size {batch_size}; set batch_size to {less}"
    with pytest.raises(BadInputError, match=sentence), enough_memory(batch_size):
        raise torch.OutOfMemoryError


def test_other_failures_are_not_called_a_lack_of_memory():
    with pytest.raises(RuntimeError, match="something else"), enough_memory(25):
        raise RuntimeError("something else")
