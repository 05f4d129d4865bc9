"""From a scene to a picture: cached antialiased sprites on a plain background, then flip and tone.

Letters are a bitmap font of this file, so a picture depends on no installed font.
"""

from functools import lru_cache

from PIL import Image, ImageChops, ImageDraw, ImageOps

from editcaption_mega.data.synthetic.scene import GRID, Item, Scene, WorldSettings

RGB = tuple[int, int, int]

COLOUR_RGB: dict[str, RGB] = {
    "red": (222, 30, 36),
    "green": (24, 150, 60),
    "blue": (36, 84, 230),
    "yellow": (252, 218, 20),
    "purple": (146, 44, 178),
    "orange": (250, 130, 10),
    "black": (24, 24, 24),
}
BACKGROUND_RGB: dict[str, RGB] = {
    "white": (255, 255, 255),
    "grey": (172, 176, 182),
    "beige": (228, 206, 156),
    "pink": (255, 188, 208),
}
LETTER_RGB: RGB = (60, 30, 20)
ZOOM_FACTOR = 1.5  # "in" shows two thirds of the canvas's side; "out" draws the canvas at two thirds of its size

# Lengths as shares of a cell's side, so that everything stays inside its cell.
_OBJECT_SIDE = {"small": 0.46, "large": 0.84}
_LETTER_SIDE = 0.78
_GROUP_CENTRES = {
    1: ((0.5, 0.5),),
    2: ((0.25, 0.5), (0.75, 0.5)),
    3: ((0.5, 0.25), (0.25, 0.75), (0.75, 0.75)),
    4: ((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)),
}
# Corners in the unit square, (x, y) with y down.
_POLYGONS: dict[str, tuple[tuple[float, float], ...]] = {
    "square": ((0.06, 0.06), (0.94, 0.06), (0.94, 0.94), (0.06, 0.94)),
    "triangle": ((0.5, 0.02), (0.99, 0.94), (0.01, 0.94)),
    "diamond": ((0.5, 0.0), (0.88, 0.5), (0.5, 1.0), (0.12, 0.5)),
    "star": (
        (0.5, 0.0), (0.62, 0.36), (1.0, 0.37), (0.7, 0.6), (0.81, 0.97),
        (0.5, 0.75), (0.19, 0.97), (0.3, 0.6), (0.0, 0.37), (0.38, 0.36),
    ),
    "cross": (
        (0.34, 0.02), (0.66, 0.02), (0.66, 0.34), (0.98, 0.34), (0.98, 0.66), (0.66, 0.66),
        (0.66, 0.98), (0.34, 0.98), (0.34, 0.66), (0.02, 0.66), (0.02, 0.34), (0.34, 0.34),
    ),
}  # fmt: skip
_LETTER_ROWS = {
    "B": ("####.", "#...#", "#...#", "####.", "#...#", "#...#", "####."),
    "E": ("#####", "#....", "#....", "####.", "#....", "#....", "#####"),
    "H": ("#...#", "#...#", "#...#", "#####", "#...#", "#...#", "#...#"),
    "K": ("#...#", "#..#.", "#.#..", "##...", "#.#..", "#..#.", "#...#"),
    "M": ("#...#", "##.##", "#.#.#", "#.#.#", "#...#", "#...#", "#...#"),
    "T": ("#####", "..#..", "..#..", "..#..", "..#..", "..#..", "..#.."),
    "U": ("#...#", "#...#", "#...#", "#...#", "#...#", "#...#", ".###."),
    "Z": ("#####", "....#", "...#.", "..#..", ".#...", "#....", "#####"),
}


def render(scene: Scene, settings: WorldSettings) -> Image.Image:
    """The picture of a scene: RGB, `canvas_size` pixels square. Deterministic; the caller owns the image."""
    side = settings.canvas_size
    scale = {"": 1.0, "in": ZOOM_FACTOR, "out": 1 / ZOOM_FACTOR}[scene.zoom]
    cell = side / GRID * scale
    margin = (side - side * scale) / 2  # where the grid's corner lies after a zoom about the picture's middle
    picture = Image.new("RGB", (side, side), BACKGROUND_RGB[scene.background])

    def put(sprite: Image.Image, row: float, col: float) -> None:
        left = round(margin + col * cell - sprite.width / 2)
        top = round(margin + row * cell - sprite.height / 2)
        picture.paste(sprite, (left, top), sprite)

    for item in scene.items:
        sprite = _item_sprite(item, cell, settings.supersampling)
        for x, y in _GROUP_CENTRES[item.count]:
            put(sprite, item.cell[0] + y, item.cell[1] + x)
    if scene.letter:
        text, (row, col) = scene.letter
        put(_letter_sprite(text, round(cell * _LETTER_SIDE), settings.supersampling), row + 0.5, col + 0.5)
    if scene.flip:
        picture = ImageOps.mirror(picture) if scene.flip == "horizontal" else ImageOps.flip(picture)
    return _toned(picture, scene.tone) if scene.tone else picture


def _item_sprite(item: Item, cell: float, supersampling: int) -> Image.Image:
    return _object_sprite(item.shape, item.colour, item.texture, round(cell * _OBJECT_SIDE[item.size]), supersampling)


@lru_cache(maxsize=4096)
def _object_sprite(shape: str, colour: str, texture: str, side: int, supersampling: int) -> Image.Image:
    """RGBA, `side` pixels square: the shape in a darker outline, filled with its texture."""
    big = side * supersampling
    colour_rgb = COLOUR_RGB[colour]
    outline = tuple(channel * 55 // 100 for channel in colour_rgb)
    sprite = Image.new("RGBA", (big, big), (*outline, 0))
    sprite.paste((*outline, 255), (0, 0), _shape_mask(shape, big, 1.0))
    sprite.paste(_textured(colour, texture, big), (0, 0), _shape_mask(shape, big, 0.84))
    return sprite.reduce(supersampling)


def _shape_mask(shape: str, side: int, share: float) -> Image.Image:
    """L, `side` pixels square: the shape shrunk to `share` of its size about the middle."""
    mask = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(mask)
    margin = side * (1 - share) / 2
    if shape == "circle":
        draw.ellipse((margin, margin, side - 1 - margin, side - 1 - margin), fill=255)
    else:
        draw.polygon(
            [(margin + x * share * (side - 1), margin + y * share * (side - 1)) for x, y in _POLYGONS[shape]], 255
        )
    return mask


def _textured(colour: str, texture: str, side: int) -> Image.Image:
    """RGBA, opaque: the colour alone, or under four diagonal stripes or a lattice of dots in a contrasting shade."""
    fill = Image.new("RGBA", (side, side), (*COLOUR_RGB[colour], 255))
    contrast = (70, 40, 0, 255) if colour in ("yellow", "orange") else (255, 255, 255, 255)
    draw = ImageDraw.Draw(fill)
    if texture == "striped":
        step = side / 3
        for number in range(-3, 4):
            draw.line((number * step, side, number * step + side, 0), fill=contrast, width=round(step * 0.34))
    elif texture == "dotted":
        radius = side * 0.085
        for x, y in ((0.5, 0.5), (0.5, 0.22), (0.5, 0.78), (0.26, 0.38), (0.74, 0.38), (0.26, 0.66), (0.74, 0.66)):
            draw.ellipse((x * side - radius, y * side - radius, x * side + radius, y * side + radius), fill=contrast)
    return fill


@lru_cache(maxsize=256)
def _letter_sprite(letter: str, side: int, supersampling: int) -> Image.Image:
    """RGBA, `side` pixels high: the letter's 5 x 7 bitmap, enlarged."""
    rows = _LETTER_ROWS[letter]
    bits = Image.new("L", (len(rows[0]), len(rows)))
    bits.putdata([255 if bit == "#" else 0 for row in rows for bit in row])
    width = round(side * 0.78)
    mask = bits.resize((width * supersampling, side * supersampling), Image.Resampling.NEAREST).reduce(supersampling)
    sprite = Image.new("RGBA", mask.size, (*LETTER_RGB, 255))
    sprite.putalpha(mask)
    return sprite


def _toned(picture: Image.Image, tone: str) -> Image.Image:
    if tone == "inverted":
        return ImageChops.invert(picture)
    if tone == "darker":
        return picture.point([level * 45 // 100 for level in range(256)] * 3)
    if tone == "brighter":
        return picture.point([255 - (255 - level) * 40 // 100 for level in range(256)] * 3)
    grey = picture.convert("L")
    if tone == "grayscale":
        return grey.convert("RGB")
    assert tone == "sepia", tone
    return Image.merge("RGB", [grey.point([level * share // 100 for level in range(256)]) for share in (100, 78, 50)])
