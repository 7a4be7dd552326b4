"""What a GPU would compute, played without one: tensors that have a device and a shape, but no values.

An operation on tensors of two devices raises an error, and so does one that must read a value on the host, which
would make every step wait for the GPU. The backward pass and Lightning's loop cannot be played so.
"""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from torch.utils.data import TensorDataset

from cnn_lab.assembly import assemble
from cnn_lab.classifier import ImageClassifier
from cnn_lab.pictures.network import Mistakes
from cnn_lab.sampling import BatchIndices
from cnn_lab.settings.config import PROJECT, check_config
from conftest import compose_config

GPU = torch.device("cuda")
MODELS = sorted({path.stem for path in (PROJECT / "conf" / "model").glob("*.yaml")} - {"own"})
OTHERS = ["fashion_mnist", "kmnist", "emnist", "emnist_digits", "emnist_letters", "cifar10"]
WEIGHTED = ["loss.label_smoothing=0.1", "data.shuffle_pixels=true", "model.norm=batch"]
CASES = [(model, "mnist", []) for model in MODELS] + [("linear", data, []) for data in OTHERS]
CASES += [("cnn", "cifar10", WEIGHTED)]


def put_on(device: torch.device, classifier: ImageClassifier) -> None:
    """Replace every tensor by one on the device; converting real ones is more than a player can do."""
    for module in classifier.modules():
        for tensors in (module._parameters, module._buffers):
            for name, values in tensors.items():
                if values is not None:
                    made = torch.empty_like(values, device=device)
                    tensors[name] = nn.Parameter(made) if isinstance(values, nn.Parameter) else made


@pytest.mark.parametrize(("model", "data", "more"), CASES)
def test_a_batch_is_computed_and_measured_on_the_gpu_alone(model: str, data: str, more: list[str]) -> None:
    settings = check_config(compose_config(f"model={model}", f"data={data}", *more))
    module, classifier = assemble(settings)
    if more:
        classifier.loss = nn.CrossEntropyLoss(torch.ones(module.num_classes), label_smoothing=0.1)
    shape = (7, *module.input_shape)
    with FakeTensorMode(allow_non_fake_inputs=True):
        put_on(GPU, classifier)
        for measures in (classifier.train_metrics, classifier.eval_metrics, classifier.confusion):
            measures.to(GPU)
        bytes_, labels = (
            torch.empty(shape, dtype=torch.uint8, device=GPU),
            torch.empty(7, dtype=torch.int64, device=GPU),
        )
        batch = module.on_after_batch_transfer([bytes_, labels], 0)
        assert classifier.train().training_step(batch, 0).device.type == "cuda"
        logits = classifier.eval().validation_step(batch, 0)
        mistakes = Mistakes(3)
        for _ in range(2):
            mistakes.update(*batch, logits)
        states = [*classifier.eval_metrics.metric_state.values(), classifier.confusion.counts, *mistakes.kept]
        assert {values.device.type for values in (*states, logits)} == {"cuda"}


def test_batches_are_cut_on_the_gpu_from_images_that_lie_there() -> None:
    sampler = BatchIndices(torch.arange(100), 64, shuffle=True)
    sampler.device = GPU
    with FakeTensorMode(allow_non_fake_inputs=True):
        images = TensorDataset(torch.empty(100, 1, 28, 28, dtype=torch.uint8, device=GPU))
        batches = [images[indices][0] for indices in sampler]
    assert [(len(batch), batch.device.type) for batch in batches] == [(64, "cuda"), (36, "cuda")]


def test_what_reads_on_the_host_or_mixes_devices_is_noticed() -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        labels = torch.empty(7, dtype=torch.int64, device=GPU)
        with pytest.raises(DynamicOutputShapeException):
            labels.bincount()
        with pytest.raises(Exception, match="cuda"):
            labels + torch.empty(7, dtype=torch.int64)
