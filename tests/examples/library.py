from kanlib import components, models, perturbation
from kanlib.setups import Training

weights = Training.from_setup("digits_resnet18").load("model")
model, data = models.trained(weights)
names = components.find(model, ["layer*.*"])
masks = perturbation.masks(100, len(names), scale=1.0, seed=0, split="test")
responses, clean = perturbation.responses(
    model, names, data.x_test[:2], data.y_test[:2], masks
)
print(responses.shape)
