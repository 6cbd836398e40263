import torch

from kanlib import components, models, perturbation
from kanlib.setups import Training

weights = Training.from_setup("digits_resnet18").load("model")
model, data = models.trained(weights)
names = components.find(model, ["layer*.*"])
first = torch.arange(2)
masks = perturbation.masks(100, len(names), scale=1.0, seed=0, split="test")
responses, clean = perturbation.responses(
    model, names, data.test.read(first), data.test.labels[first], masks
)
print(responses.shape)
