from kanlib import components, models, perturbation
from kanlib.setups import Training

model, data = models.trained(Training.from_setup("digits_resnet18").load("model"))
names = components.find(model, ["layer*.*"])
masks = perturbation.masks(100, len(names), scale=1.0, seed=0, split="test")
responses, clean = perturbation.responses(model, names, data.x_test[:2], data.y_test[:2], masks)
print(responses.shape)
