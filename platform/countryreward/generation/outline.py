"""The canny image that tells a ControlNet where the product is."""

import cv2
import numpy as np

from countryreward.generation.subject import Subject

_LOW, _HIGH = 100, 200  # Canny's thresholds, those the published canny ControlNets were trained with


def canny_image(picture: np.ndarray, subject: Subject, px: int) -> np.ndarray:
    """Canny(I_ori) of Eq. 13: uint8 [px, px, 3], white edges on black, of the picture fitted into the square.

    Where the product was cut out only its own edges stay, so that the design decides on all around it; else the whole
    picture's. The picture keeps its proportions; what it leaves of the square is black.
    """
    height, width = picture.shape[:2]
    share = px / max(height, width)
    size = max(1, round(width * share)), max(1, round(height * share))
    how = cv2.INTER_AREA if share < 1 else cv2.INTER_CUBIC
    edges = cv2.Canny(cv2.resize(picture, size, interpolation=how), _LOW, _HIGH)
    if subject.seen == "cut out":
        left, top, wide, high = subject.view.box
        mask = np.zeros((height, width), np.uint8)
        mask[top : top + high, left : left + wide] = subject.view.mask
        mask = cv2.resize(mask, size, interpolation=cv2.INTER_LINEAR)
        reach = max(1, round(0.01 * px))  # the outline itself lies on the mask's border
        edges[cv2.dilate(mask, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)) < 128] = 0
    square = np.zeros((px, px), np.uint8)
    top, left = (px - size[1]) // 2, (px - size[0]) // 2
    square[top : top + size[1], left : left + size[0]] = edges
    return cv2.merge([square] * 3)
