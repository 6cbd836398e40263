import torch

from kanlib.masks import gaussian
from kanlib.networks import Probe, find, trained
from kanlib.setups import Training

# What notebook 00_training wrote.
weights = Training.from_setup("digits_resnet18").load("model")
model, data = trained(weights)
names = find(model, ["layer*.*"])
first = torch.arange(2)
probe = Probe(model, names, data.test.read(first), data.test.labels[first])
masks = gaussian(100, len(names), scale=1.0, seed=0, split="test")
responses, clean = probe.responses(masks)
print(responses.shape)
