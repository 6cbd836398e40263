import torch

from kanlib import looks
from kanlib.view_charts import three_views


def test_a_picture_has_the_three_views_with_their_signs_and_no_markup_of_names():
    image = torch.rand(3, 8, 8)
    page = three_views(
        image, torch.tensor([[1.0, -0.5], [0.0, 0.25]]), [(image, "a<b", 0.5), (image, "c", -0.1)], [("x&y", -2.0)]
    ).data
    assert page.count("<svg") == 2
    assert page.count("<rect") == 5
    assert page.count("<img") == 2
    assert "a&lt;b" in page
    assert "x&amp;y" in page
    assert set(looks.SIGNS.values()) <= {page[i : i + 7] for i in range(len(page)) if page[i] == "#"}


def test_a_view_without_training_images_leaves_them_out():
    page = three_views(torch.rand(3, 8, 8), torch.zeros(2, 2), [], [("a", 0.0)]).data
    assert "<img" not in page
    assert "nan" not in page
