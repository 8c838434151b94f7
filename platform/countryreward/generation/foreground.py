"""The product's outline in its own picture."""

import cv2
import numpy as np

_SIDE = 256  # pictures are judged at this size; outlines are as fine as that
_APART = 11.0  # distance in Lab from the background's colour at which a pixel is the product's
_HOLE = 3.0  # a hole through the product shows the background nearly exactly


def foreground(pixels: np.ndarray) -> np.ndarray | None:
    """The product as uint8 [h, w], 255 inside, of RGB uint8 [h, w, 3]; None where nothing stands out.

    Against a background that is uniform or changes slowly: what differs from it, with its holes filled unless they show that
    background. Else GrabCut, starting from all but the border; what it finds counts only where it is one thing of a likely size.
    """
    height, width = pixels.shape[:2]
    share = min(1.0, _SIDE / max(height, width))
    size = max(8, round(width * share)), max(8, round(height * share))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    mask = _against_border(small)
    if mask is None:
        mask = _grab(small)
    if mask is None:
        return None
    # a little inside, so that no rim of the background comes along; soft, so that the edge is not jagged
    soft = cv2.GaussianBlur(cv2.erode(mask, np.ones((3, 3), np.uint8)), (0, 0), 0.8)
    return cv2.resize(soft, (width, height), interpolation=cv2.INTER_LINEAR)


def _against_border(pixels: np.ndarray) -> np.ndarray | None:
    lab = cv2.cvtColor(cv2.GaussianBlur(pixels, (0, 0), 0.7).astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    apart = _distance_from_background(lab)
    if apart is None:
        return None
    outside = _touching_border((apart < _APART).astype(np.uint8))
    mask = np.where(outside, 0, 255).astype(np.uint8)
    mask = _without_shadow(mask, pixels, lab)
    mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    mask = _largest(mask, keep=0.15)
    if not 0.01 <= (mask > 0).mean() <= 0.95:
        return None
    count, labels, stats, _ = cv2.connectedComponentsWithStats(((mask > 0) & (apart < _HOLE)).astype(np.uint8))
    for label in range(1, count):
        if stats[label, cv2.CC_STAT_AREA] > 0.004 * mask.size:
            mask[labels == label] = 0
    return mask


def _without_shadow(mask: np.ndarray, pixels: np.ndarray, lab: np.ndarray) -> np.ndarray:
    """Take away what is the background but darker, has no sharp edge and hangs on to the outside: a soft shadow."""
    outside = mask == 0
    usual = pixels[outside].astype(np.float32).mean(axis=0)
    share = pixels.astype(np.float32) / np.maximum(usual, 1)
    even = share.max(axis=2) - share.min(axis=2) < 0.06
    light = np.ascontiguousarray(lab[:, :, 0])
    steep = cv2.magnitude(
        cv2.Sobel(light, cv2.CV_32F, 1, 0, scale=1 / 8), cv2.Sobel(light, cv2.CV_32F, 0, 1, scale=1 / 8)
    )
    soft = even & (share.mean(axis=2) > 0.5) & (steep < 3.5)
    reached = _touching_border((outside | soft).astype(np.uint8))
    kept = np.where(reached, 0, mask).astype(np.uint8)
    return kept if (kept > 0).sum() > 0.7 * (mask > 0).sum() else mask  # a grey, smooth product is no shadow


def _distance_from_background(lab: np.ndarray) -> np.ndarray | None:
    """Distance of every pixel from the background as its border foretells it; None where the border is not uniform."""
    height, width = lab.shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    x, y = x / width - 0.5, y / height - 0.5
    ring = max(2, round(0.03 * min(height, width)))
    border = np.ones((height, width), bool)
    border[ring:-ring, ring:-ring] = False
    terms = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=-1)
    kept = border.copy()
    apart = np.zeros((height, width), np.float32)
    for _ in range(3):  # what touches the border is left out of the next fit
        weights, *_ = np.linalg.lstsq(terms[kept], lab[kept], rcond=None)
        apart = np.linalg.norm(lab - terms @ weights, axis=-1)
        kept = border & (apart < _APART)
        if kept.sum() < 0.6 * border.sum():
            return None
    spread = lab[kept].std(axis=0).max()
    return apart if spread < 12 else None


def _grab(pixels: np.ndarray) -> np.ndarray | None:
    height, width = pixels.shape[:2]
    mask = np.full((height, width), cv2.GC_BGD, np.uint8)
    top, left = max(1, height // 20), max(1, width // 20)
    mask[top:-top, left:-left] = cv2.GC_PR_FGD
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)
    try:
        cv2.grabCut(pixels, mask, (0, 0, 0, 0), *models, 3, cv2.GC_INIT_WITH_MASK)
    except cv2.error:  # one colour all over
        return None
    found = np.where(mask == cv2.GC_PR_FGD, 255, 0).astype(np.uint8)
    found = cv2.morphologyEx(found, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
    largest = _largest(found, keep=1.0)
    share = (largest > 0).mean()
    if not 0.05 <= share <= 0.75 or (largest > 0).sum() < 0.8 * max(1, (found > 0).sum()):
        return None
    return cv2.morphologyEx(largest, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))


def _touching_border(mask: np.ndarray) -> np.ndarray:
    """The parts of a mask that reach the border, bool."""
    _, labels = cv2.connectedComponents(mask, connectivity=4)
    edge = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    return np.isin(labels, np.unique(edge[edge > 0]))


def _largest(mask: np.ndarray, keep: float) -> np.ndarray:
    """The largest part and those at least `keep` times as large: a pair of shoes is two."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask)
    if count < 2:
        return mask
    areas = stats[1:, cv2.CC_STAT_AREA]
    kept = 1 + np.flatnonzero(areas >= keep * areas.max())
    return np.where(np.isin(labels, kept), 255, 0).astype(np.uint8)
