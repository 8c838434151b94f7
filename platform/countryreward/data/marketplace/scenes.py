"""The eight background scenes. Each keeps its structure whatever the palette: a beach stays a beach in grey."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from countryreward.data.marketplace.canvas import Canvas, mix
from countryreward.data.marketplace.vocabulary import RGB, Palette

WHITE: RGB = (255, 255, 255)


@dataclass(frozen=True)
class Tint:
    """Colours of a scene: mostly the palette's, partly the thing's own, greyed where the palette is grey."""

    palette: Palette

    def __call__(self, natural: RGB, role: RGB, *, own: float = 0.35) -> RGB:
        """`own` of the natural colour, the rest of the palette's colour for that role."""
        grey = round(0.3 * natural[0] + 0.59 * natural[1] + 0.11 * natural[2])
        return mix(role, mix((grey, grey, grey), natural, min(1.0, self.palette.colourfulness / 5)), own)


def studio(canvas: Canvas, tint: Tint, rng: np.random.Generator) -> None:
    """A seamless backdrop, a disc behind and a podium under the product."""
    p = tint.palette
    canvas.gradient(0, 0.7, p.light, mix(p.light, p.middle, 0.25))
    canvas.gradient(0.7, 1, mix(p.light, p.middle, 0.55), mix(p.light, p.middle, 0.35))
    canvas.ellipse(0.5 + rng.uniform(-0.05, 0.05), 0.45, 0.36, 0.36, mix(p.light, p.middle, 0.6))
    canvas.ellipse(0.5, 0.86, 0.4, 0.085, mix(p.middle, p.dark, 0.3))
    canvas.ellipse(0.5, 0.835, 0.4, 0.085, mix(p.middle, WHITE, 0.25))


def living_room(canvas: Canvas, tint: Tint, rng: np.random.Generator) -> None:
    """Wall, window, framed picture, sofa, floor."""
    p = tint.palette
    canvas.gradient(0, 0.7, mix(p.light, WHITE, 0.2), p.light)
    floor = tint((170, 122, 80), p.middle)
    canvas.gradient(0.7, 1, floor, mix(floor, p.dark, 0.25))
    for x in np.arange(-0.2, 1.3, 0.17):
        canvas.line([(x + 0.12, 0.7), (x, 1)], 0.004, mix(floor, p.dark, 0.35))
    left = rng.uniform(0.06, 0.12)
    canvas.rect(left - 0.02, 0.06, left + 0.28, 0.46, WHITE)
    canvas.rect(left, 0.08, left + 0.26, 0.44, tint((158, 208, 240), p.light, own=0.6))
    canvas.line([(left + 0.13, 0.08), (left + 0.13, 0.44)], 0.014, WHITE)
    canvas.line([(left, 0.26), (left + 0.26, 0.26)], 0.014, WHITE)
    canvas.rect(left - 0.08, 0.04, left - 0.005, 0.62, mix(p.accent, p.light, 0.35))
    canvas.rect(0.64, 0.1, 0.92, 0.36, p.dark)
    canvas.rect(0.66, 0.12, 0.90, 0.34, mix(p.light, WHITE, 0.5))
    canvas.ellipse(0.74, 0.25, 0.06, 0.06, p.accent)
    canvas.poly([(0.72, 0.34), (0.81, 0.2), (0.9, 0.34)], p.second)
    sofa = mix(p.second, p.dark, 0.1)
    canvas.rect(0.1, 0.5, 0.9, 0.7, mix(sofa, p.dark, 0.12))
    canvas.rect(0.04, 0.57, 0.16, 0.8, sofa)
    canvas.rect(0.84, 0.57, 0.96, 0.8, sofa)
    canvas.rect(0.14, 0.66, 0.86, 0.8, mix(sofa, WHITE, 0.12))
    canvas.line([(0.5, 0.66), (0.5, 0.8)], 0.008, mix(sofa, p.dark, 0.4))
    canvas.ellipse(0.5, 0.93, 0.46, 0.07, mix(p.light, p.accent, 0.3))


def kitchen(canvas: Canvas, tint: Tint, rng: np.random.Generator) -> None:
    """Tiled wall, a shelf with jars, hanging utensils, a countertop over cupboards."""
    p = tint.palette
    canvas.gradient(0, 0.72, mix(p.light, WHITE, 0.4), mix(p.light, WHITE, 0.3))
    canvas.gradient(0.72, 1, p.middle, mix(p.second, p.dark, 0.15))  # rectangles leave the border pixels half covered
    grout = mix(p.light, p.dark, 0.22)
    for row, y in enumerate(np.arange(0.0, 0.72, 0.09)):
        canvas.line([(0, y), (1, y)], 0.006, grout)
        for x in np.arange(0.07 * (row % 2), 1.05, 0.14):
            canvas.line([(x, y), (x, y + 0.09)], 0.006, grout)
    canvas.rect(0, 0.26, 1, 0.295, tint((150, 100, 60), p.dark))
    x = 0.05
    for _ in range(7):
        width, height = rng.uniform(0.06, 0.1), rng.uniform(0.1, 0.19)
        colour = (p.accent, p.second, p.middle)[int(rng.integers(3))]
        canvas.rect(x, 0.26 - height, x + width, 0.26, colour)
        canvas.rect(x + 0.01, 0.24 - height, x + width - 0.01, 0.26 - height, p.dark)
        x += width + 0.045
    for x in (0.1, 0.19, 0.83, 0.92):
        canvas.line([(x, 0.3), (x, 0.46)], 0.012, p.dark)
        canvas.ellipse(x, 0.5, 0.035, 0.045, mix(p.dark, p.middle, 0.4))
    canvas.rect(0, 0.71, 1, 0.86, tint((214, 190, 160), p.middle))
    canvas.rect(0, 0.845, 1, 0.875, mix(p.middle, p.dark, 0.5))
    canvas.rect(0, 0.875, 1, 1, mix(p.second, p.dark, 0.15))
    for x in (0.0, 0.25, 0.5, 0.75):
        canvas.line([(x, 0.875), (x, 1)], 0.01, p.dark)
        canvas.ellipse(x + 0.21, 0.94, 0.012, 0.012, p.light)


def garden(canvas: Canvas, tint: Tint, rng: np.random.Generator) -> None:
    """Sky, a round hedge, a lawn full of flowers."""
    p = tint.palette
    canvas.gradient(0, 0.5, tint((150, 210, 250), p.light), mix(p.light, WHITE, 0.4))
    hedge = tint((44, 120, 52), p.middle, own=0.5)
    for x in np.arange(-0.02, 1.1, 0.13):
        canvas.ellipse(x, 0.44 + rng.uniform(-0.04, 0.04), 0.12, 0.15, mix(hedge, p.dark, 0.25))
    for x in np.arange(-0.05, 1.1, 0.15):
        canvas.ellipse(x, 0.54 + rng.uniform(-0.03, 0.03), 0.11, 0.12, hedge)
    lawn = tint((120, 190, 80), p.middle, own=0.55)
    canvas.gradient(0.6, 1, mix(lawn, WHITE, 0.15), mix(lawn, p.dark, 0.15))
    for _ in range(34):
        x, y = rng.uniform(0, 1), rng.uniform(0.42, 0.98)
        size = 0.008 + 0.018 * y
        canvas.line([(x, y), (x, y + 2.4 * size)], 0.006, mix(hedge, p.dark, 0.4))
        colour = (p.accent, p.second, mix(p.light, WHITE, 0.5))[int(rng.integers(3))]
        for dx, dy in ((-1, 0), (1, 0), (0, -1), (0, 1)):
            canvas.ellipse(x + dx * size * 0.7, y + dy * size * 0.7, size * 0.7, size * 0.7, colour)
        canvas.ellipse(x, y, size * 0.5, size * 0.5, tint((250, 210, 60), p.light))


def beach(canvas: Canvas, tint: Tint, rng: np.random.Generator) -> None:
    """Sky with a sun, sea with waves, sand, a leaning palm tree."""
    p = tint.palette
    canvas.gradient(0, 0.45, tint((110, 190, 245), mix(p.light, p.middle, 0.25)), mix(p.light, WHITE, 0.35))
    canvas.ellipse(rng.uniform(0.66, 0.84), 0.16, 0.085, 0.085, tint((255, 236, 150), mix(p.light, WHITE, 0.6)))
    sea = tint((20, 130, 190), p.middle, own=0.5)
    canvas.gradient(0.45, 0.7, mix(sea, p.dark, 0.2), mix(sea, WHITE, 0.3))
    for _ in range(12):
        x, y = rng.uniform(0, 1), rng.uniform(0.48, 0.64)
        canvas.line(
            [(x - 0.06, y), (x - 0.02, y - 0.008), (x + 0.02, y), (x + 0.06, y - 0.008)], 0.007, mix(sea, WHITE, 0.7)
        )
    sand = tint((242, 214, 160), p.light, own=0.6)
    wave = [(x, 0.68 + 0.014 * np.sin(14 * x)) for x in np.linspace(0, 1, 24)]
    canvas.poly([*wave, (1, 1), (0, 1)], WHITE)
    canvas.poly([*((x, y + 0.02) for x, y in wave), (1, 1), (0, 1)], sand)
    trunk = tint((120, 82, 50), p.dark)
    canvas.line([(0.06, 0.86), (0.1, 0.6), (0.17, 0.36), (0.22, 0.25)], 0.032, trunk)
    leaf = tint((34, 130, 60), mix(p.second, p.dark, 0.3), own=0.5)
    for dx, dy in (
        (-0.24, 0.07),
        (-0.18, -0.08),
        (-0.02, -0.17),
        (0.15, -0.11),
        (0.22, 0.05),
        (0.1, 0.14),
        (-0.12, 0.16),
    ):
        tip = (0.22 + dx, 0.25 + dy)
        side = 0.022 if dx < 0.05 else -0.022
        canvas.poly(
            [(0.22, 0.235), (0.22 + dx / 2, 0.25 + dy / 2 - 0.045), tip, (0.22 + dx / 2 + side, 0.25 + dy / 2 + 0.012)],
            leaf,
        )
    for _ in range(14):
        canvas.ellipse(rng.uniform(0, 1), rng.uniform(0.78, 0.99), 0.008, 0.005, mix(sand, p.dark, 0.3))
    canvas.ellipse(0.88, 0.9, 0.045, 0.03, p.accent)
    canvas.ellipse(0.88, 0.9, 0.022, 0.03, WHITE)


def city(canvas: Canvas, tint: Tint, rng: np.random.Generator) -> None:
    """High-rise buildings with windows along a street with lane marks."""
    p = tint.palette
    canvas.gradient(0, 0.72, tint((170, 204, 236), p.light), mix(p.light, WHITE, 0.3))
    x = -0.03
    while x < 1:
        width = rng.uniform(0.1, 0.15)
        canvas.rect(x, rng.uniform(0.1, 0.3), x + width, 0.74, mix(p.light, p.second, 0.4))
        x += width
    x = -0.05
    while x < 1:
        width = rng.uniform(0.15, 0.21)
        near_middle = abs(x + width / 2 - 0.5) < 0.2
        top = rng.uniform(0.38, 0.5) if near_middle else rng.uniform(0.08, 0.3)
        wall = tint((96, 108, 128), (p.middle, p.second, p.dark)[int(rng.integers(3))])
        canvas.rect(x, top, x + width, 0.76, wall)
        pane = mix(tint((255, 240, 190), p.light), WHITE, 0.2)
        for row in np.arange(top + 0.03, 0.68, 0.062):
            for column in np.arange(x + 0.022, x + width - 0.03, 0.046):
                canvas.rect(column, row, column + 0.024, row + 0.034, pane)
        x += width + 0.008
    canvas.rect(0, 0.74, 1, 0.79, mix(p.light, (150, 150, 150), 0.5))
    road = tint((84, 86, 92), p.dark, own=0.5)
    canvas.gradient(0.79, 1, road, mix(road, (20, 20, 24), 0.3))
    for x in np.arange(-0.05, 1.1, 0.2):
        canvas.poly(
            [(x + 0.03, 0.885), (x + 0.13, 0.885), (x + 0.12, 0.91), (x + 0.01, 0.91)], mix(p.light, WHITE, 0.6)
        )


def mountains(canvas: Canvas, tint: Tint, rng: np.random.Generator) -> None:
    """Snow-capped peaks, hills, a lake."""
    p = tint.palette
    canvas.gradient(0, 0.6, tint((140, 190, 236), p.light), mix(p.light, WHITE, 0.5))
    rock = tint((110, 122, 146), mix(p.middle, p.dark, 0.4))
    for x, top, half in ((0.2, 0.16, 0.34), (0.83, 0.1, 0.36), (0.52, 0.26, 0.3)):
        top += rng.uniform(-0.03, 0.03)
        canvas.poly([(x, top), (x - half, 0.7), (x + half, 0.7)], rock)
        canvas.poly([(x, top), (x + half, 0.7), (x + 0.1 * half, 0.7)], mix(rock, p.dark, 0.3))
        k = 0.17
        y = top + k
        reach = half * k / (0.7 - top)
        canvas.poly(
            [
                (x, top),
                (x + reach, y),
                (x + 0.5 * reach, y - 0.04),
                (x + 0.1 * reach, y + 0.03),
                (x - 0.4 * reach, y - 0.03),
                (x - reach, y),
            ],
            mix(p.light, WHITE, 0.85),
        )
    hill = tint((86, 140, 84), p.middle, own=0.45)
    canvas.ellipse(0.1, 0.78, 0.5, 0.2, mix(hill, p.dark, 0.2))
    canvas.ellipse(0.85, 0.8, 0.55, 0.22, hill)
    lake = tint((90, 160, 200), p.second, own=0.4)
    canvas.gradient(0.74, 1, mix(lake, WHITE, 0.35), lake)
    for _ in range(10):
        x, y = rng.uniform(0, 1), rng.uniform(0.77, 0.98)
        canvas.line([(x - 0.07, y), (x + 0.07, y)], 0.006, mix(lake, WHITE, 0.6))
    canvas.poly([(0, 0.93), (0.3, 0.85), (0.7, 0.85), (1, 0.93), (1, 1), (0, 1)], mix(hill, p.dark, 0.35))


def night_market(canvas: Canvas, tint: Tint, rng: np.random.Generator) -> None:
    """Night sky, two strings of lanterns, striped awnings over stalls."""
    p = tint.palette
    night = mix(p.dark, (14, 12, 28), 0.6)
    canvas.gradient(0, 0.75, night, mix(night, p.middle, 0.25))
    for _ in range(20):
        canvas.ellipse(rng.uniform(0, 1), rng.uniform(0, 0.3), 0.004, 0.004, (230, 230, 230))
    for left in (-0.06, 0.66):
        canvas.rect(left, 0.5, left + 0.4, 0.8, mix(night, p.second, 0.35))
        canvas.rect(left, 0.68, left + 0.4, 0.82, tint((120, 80, 50), p.dark))
        for index in range(6):
            x = left + 0.04 + 0.06 * index
            canvas.ellipse(x, 0.655, 0.026, 0.03, (p.accent, p.light, p.second)[int(rng.integers(3))])
        for stripe in range(8):
            x = left - 0.02 + 0.055 * stripe
            colour = p.accent if stripe % 2 else mix(p.light, WHITE, 0.5)
            canvas.poly([(x + 0.01, 0.4), (x + 0.06, 0.4), (x + 0.055, 0.5), (x, 0.5)], colour)
            canvas.ellipse(x + 0.0275, 0.5, 0.0275, 0.03, colour, arc=(0, 180))
    for base, count in ((0.1, 6), (0.24, 5)):
        rope = [(x, base + 0.09 * (1 - (2 * x - 1) ** 2)) for x in np.linspace(0, 1, 16)]
        canvas.line(rope, 0.005, mix(p.light, night, 0.5))
        for x in np.linspace(0.08, 0.92, count):
            y = base + 0.09 * (1 - (2 * x - 1) ** 2) + 0.05
            lantern = tint((255, 190, 90), p.accent if count == 6 else p.light, own=0.3)
            canvas.ellipse(x, y, 0.055, 0.058, mix(night, lantern, 0.4))
            canvas.ellipse(x, y, 0.038, 0.045, lantern)
            canvas.ellipse(x, y, 0.016, 0.04, mix(lantern, WHITE, 0.5))
            canvas.rect(x - 0.014, y - 0.055, x + 0.014, y - 0.04, p.dark)
    ground = mix(night, p.middle, 0.3)
    canvas.gradient(0.8, 1, ground, mix(ground, (10, 10, 16), 0.4))
    for _ in range(8):
        canvas.ellipse(rng.uniform(0, 1), rng.uniform(0.84, 0.98), 0.06, 0.012, mix(ground, p.accent, 0.35))


DRAW: dict[str, Callable[[Canvas, Tint, np.random.Generator], None]] = {
    "studio": studio,
    "living_room": living_room,
    "kitchen": kitchen,
    "garden": garden,
    "beach": beach,
    "city": city,
    "mountains": mountains,
    "night_market": night_market,
}
"""Key of SCENES -> the function that draws it over a whole canvas."""
