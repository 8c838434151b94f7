"""Pictures as a photographer delivers them, made here: a lit bottle on a backdrop, with its shadow and noise."""

import cv2
import numpy as np

BODY = (0.5, 0.14, 0.32, 0.9)
"""Of the bottle: middle, half width, top, bottom, as shares of the picture."""


def bottle(px: int = 400, *, backdrop: int = 250, glass: tuple[int, int, int] = (30, 120, 80)) -> np.ndarray:
    """RGB uint8 [px, px, 3]: a bottle with a cap and a label on a light backdrop."""
    y, x = np.mgrid[0:px, 0:px] / px
    middle, half, top, bottom = BODY
    picture = np.full((px, px, 3), backdrop, np.float64) * (1 - 0.05 * ((x - 0.5) ** 2 + (y - 0.5) ** 2))[..., None]
    ellipse = (((x - middle) / 0.24) ** 2 + ((y - bottom) / 0.025) ** 2 < 1).astype(np.float32)
    picture *= (1 - 0.35 * cv2.GaussianBlur(ellipse, (0, 0), 0.012 * px))[..., None]
    across = (x - middle) / half
    shade = 0.35 + 0.75 * np.exp(-(((across + 0.35) / 0.35) ** 2))
    parts = (
        ((abs(across) < 1) & (y > top) & (y < bottom), glass),
        ((abs(across) < 0.36) & (y > 0.14) & (y <= 0.34), glass),
        ((abs(across) < 0.46) & (y > 0.08) & (y <= 0.16), (220, 190, 90)),
        ((abs(across) < 1) & (y > 0.5) & (y < 0.74), (235, 228, 210)),
    )
    for where, colour in parts:
        picture[where] = (np.clip(shade, 0.4, 1.1)[..., None] * colour)[where]
    pixels = np.clip(picture, 0, 255).astype(np.uint8)
    at = round(0.39 * px), round(0.63 * px)
    cv2.putText(pixels, "OLIVA", at, cv2.FONT_HERSHEY_SIMPLEX, px / 440, (60, 80, 40), 2, cv2.LINE_AA)
    noise = np.random.default_rng(0).normal(0, 3, pixels.shape)
    return np.clip(cv2.GaussianBlur(pixels, (0, 0), 0.8) + noise, 0, 255).astype(np.uint8)
