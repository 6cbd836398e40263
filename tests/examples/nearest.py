import numpy as np
from sklearn.neighbors import KNeighborsRegressor

from kanlib.attribution.surrogates import EachExample


class Nearest(EachExample):
    """Mean response to the nearest masks; validation chooses how many."""

    def best(self, x, y, unseen, truth):
        """The best on validation."""
        fits = [KNeighborsRegressor(k).fit(x, y) for k in (2, 5, 10, 30)]
        return min(
            fits, key=lambda f: np.square(f.predict(unseen) - truth).mean()
        )
