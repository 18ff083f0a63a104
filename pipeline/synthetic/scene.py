"""One scene, drawn from a seed: where things stand, what is behind them, the lens and the light."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pipeline.synthetic import textures
from pipeline.synthetic.aperture import Aperture, draw_aperture
from pipeline.synthetic.backdrops import FAR_M, INDOORS, OUTDOORS, lights, night, photograph
from pipeline.synthetic.camera import Camera, View, circle_of_confusion_px
from pipeline.synthetic.colour import pick, scene_palette
from pipeline.synthetic.kit import LARGE, Kit
from pipeline.synthetic.light import Light
from pipeline.synthetic.materials import Material
from pipeline.synthetic.noise import field
from pipeline.synthetic.outdoors import IN_THE_GRASS, ON_GROUND
from pipeline.synthetic.prints import Photographs
from pipeline.synthetic.props import ON_TABLE, Maker
from pipeline.synthetic.shapes import Quad, corners, turned
from pipeline.synthetic.textures import Painter
from pipeline.synthetic.things import Part, Thing, placed

__all__ = ["Scene", "build"]


@dataclass(frozen=True)
class Scene:
    """Everything that is needed to render: things from far to near."""

    kind: str
    focus: str
    view: View
    light: Light
    things: list[Thing]
    aperture: Aperture


@dataclass(frozen=True)
class Setting:
    """A kind of scene. Ranges are (low, high); depths of other things are relative to the subject's."""

    name: str
    weight: float
    makers: tuple[Maker, ...]
    grounds: tuple[Painter, ...]
    focal_length_mm: tuple[float, float]  # as on a 36 mm sensor
    subject_share: tuple[float, float]  # the subject's height by the frame's
    pitch_deg: tuple[float, float]
    foot_row: tuple[float, float]  # where the subject stands: 0 is the top of the frame, 1 the bottom
    depths: tuple[float, float]
    backdrop: tuple[float, float]
    tile_m: tuple[float, float]
    indoors: bool = False
    row: bool = False


TABLE = Setting("table", 0.34, ON_TABLE, textures.TABLES, (40, 90), (0.32, 0.7), (3, 24), (0.68, 0.92), (0.6, 2.3),
                (2.2, 6.0), (0.4, 0.9), indoors=True)  # fmt: skip
SETTINGS = (
    TABLE,
    Setting("row", 0.12, ON_TABLE, textures.TABLES, (40, 90), (0.3, 0.6), (3, 20), (0.62, 0.85), (0.75, 2.6),
            (3.0, 7.0), (0.4, 0.9), indoors=True, row=True),
    Setting("ground", 0.26, ON_GROUND, textures.GROUNDS, (80, 220), (0.45, 0.95), (-1, 6), (0.78, 1.0), (0.45, 3.2),
            (3.0, 9.0), (0.8, 2.0)),
    Setting("posts", 0.08, ON_GROUND, textures.GROUNDS, (60, 150), (0.4, 0.8), (0, 8), (0.7, 0.95), (0.7, 3.5),
            (4.0, 10.0), (0.8, 2.0), row=True),
    Setting("low", 0.2, IN_THE_GRASS,
            (textures.lawn, textures.lawn, textures.pebbles, textures.asphalt, textures.planks),
            (50, 110), (0.35, 0.8), (1, 13), (0.68, 0.95), (0.5, 2.8), (4.0, 14.0), (0.25, 0.5)),
)  # fmt: skip
FOCUS = (("subject", 0.55), ("near", 0.17), ("far", 0.14), ("backdrop", 0.11), ("all", 0.03))
STOPS = (1.2, 1.4, 1.8, 2.0, 2.2, 2.8, 3.2, 4.0, 4.5, 5.6, 6.3, 8.0, 9.0, 11.0, 13.0, 16.0, 18.0, 22.0, 29.0, 40.0)
SENSORS_MM = (36.0, 36.0, 23.5, 17.3)
PHONE_SENSOR_MM = 6.2


@dataclass(frozen=True)
class Stand:
    """The camera before it is focused: its place and its field of view, and the subject's depth."""

    subject_m: float
    height_m: float
    pitch_deg: float
    f_px: float
    focal_length_mm: float
    sensor_width_mm: float
    size: tuple[int, int]

    def spot(self, depth_m: float, across: float) -> tuple[float, float]:
        """World x and z of the ground point at a depth, `across` of the frame's width from its middle."""
        pitch = math.radians(self.pitch_deg)
        up = (math.sin(pitch) - self.height_m / depth_m) / math.cos(pitch)
        x = depth_m * across * self.size[1] / self.f_px
        return x, depth_m * (up * math.sin(pitch) + math.cos(pitch))

    def width_m(self, depth_m: float) -> float:
        """Width of the view at a depth."""
        return depth_m * self.size[1] / self.f_px


def build(
    seed: int, index: int, size: tuple[int, int], photographs: Photographs, threshold_px: float
) -> tuple[Scene, np.random.Generator]:
    """Scene `index` of a seed at a size (height, width), and the generator to develop it with."""
    rng = np.random.default_rng([seed, index])
    kit = Kit(rng, scene_palette(rng), photographs)
    setting = SETTINGS[int(rng.choice(len(SETTINGS), p=[s.weight for s in SETTINGS]))]
    focus = FOCUS[int(rng.choice(len(FOCUS), p=[f[1] for f in FOCUS]))][0]
    makers = _makers(kit, setting)
    made = [maker(kit) for maker in makers]
    stand = _stand(kit, setting, made[0], size, phone=focus == "all")
    things = _arranged(kit, setting, stand, made)
    far_m = stand.subject_m * kit.between(*setting.backdrop)
    far_m = max(far_m, 1.15 * max(thing.distance_m for thing in things))
    camera = _focused(kit, stand, things, far_m, focus, threshold_px)
    widest = max(float(circle_of_confusion_px(z, camera)) for z in _depths(things, far_m))
    view = View(camera, math.ceil(widest / 2) + 2)
    behind, dark = _behind(kit, setting, stand, view, far_m)
    ground = _ground(kit, setting, stand, things, far_m)
    things = sorted(things, key=lambda thing: -thing.distance_m)
    things = [*behind, *ground, *things]
    return Scene(setting.name, focus, view, _light(kit, setting, dark), things, draw_aperture(rng)), rng


def _makers(kit: Kit, setting: Setting) -> list[Maker]:
    if setting.row:
        maker = setting.makers[int(kit.rng.integers(len(setting.makers)))]
        return [maker] * int(kit.rng.integers(4, 8))
    count = int(kit.rng.integers(2, 8)) + (4 if setting.name == "low" else 0)
    return [setting.makers[i] for i in kit.rng.integers(len(setting.makers), size=count)]


def _stand(kit: Kit, setting: Setting, subject: Thing, size: tuple[int, int], *, phone: bool) -> Stand:
    """Stand so that the subject takes its share of the frame: magnification m needs the distance f (1 + 1/m)."""
    sensor = (
        PHONE_SENSOR_MM if phone else SENSORS_MM[int(kit.rng.integers(2 if not setting.indoors else len(SENSORS_MM)))]
    )
    focal = round(kit.between(*setting.focal_length_mm) * sensor / 36, 1)
    share = kit.between(*setting.subject_share)
    magnification = share * sensor * size[0] / size[1] / (1000 * subject.height_m)
    subject_m = max(focal * (1 + 1 / magnification) / 1000, 4 * subject.footprint[2], 0.25)
    f_px = focal * subject_m / (subject_m - focal / 1000) / sensor * size[1]
    pitch, row = kit.between(*setting.pitch_deg), kit.between(*setting.foot_row)
    down = (row - 0.5) * size[0] / f_px
    height = subject_m * (math.sin(math.radians(pitch)) + down * math.cos(math.radians(pitch)))
    return Stand(subject_m, height, pitch, f_px, focal, sensor, size)


def _arranged(kit: Kit, setting: Setting, stand: Stand, made: list[Thing]) -> list[Thing]:
    """Set the subject down, then the others where they stand clear of each other."""
    across = kit.between(-0.22, 0.22)
    if setting.row:
        return _in_a_row(kit, setting, stand, made, across)
    things = [_put(kit, stand, made[0], stand.subject_m, across)]
    for thing in made[1:]:
        for _ in range(12):
            depth = stand.subject_m * math.exp(kit.between(*np.log(setting.depths)))
            place = kit.between(-0.55, 0.55)
            if _clear(stand, thing, depth, place, things, across):
                things.append(_put(kit, stand, thing, depth, place))
                break
    return things


def _clear(stand: Stand, thing: Thing, depth: float, place: float, others: list[Thing], subject: float) -> bool:
    """Nothing overlaps on the ground, and what is nearer than the subject leaves it in view."""
    x, z = stand.spot(depth, place)
    radius = thing.footprint[2]
    if depth < 2.5 * radius + 0.05:
        return False
    if any(math.hypot(x - o.footprint[0], z - o.footprint[1]) < 1.15 * (radius + o.footprint[2]) for o in others):
        return False
    width = 2 * radius / stand.width_m(depth)
    if depth > stand.subject_m:
        return True
    return width < 0.55 and abs(place - subject) > 0.5 * width + 0.1


def _in_a_row(kit: Kit, setting: Setting, stand: Stand, made: list[Thing], across: float) -> list[Thing]:
    """The same kind of thing again and again, along a line that runs away from the camera."""
    side = -1 if across > 0 else 1
    things: list[Thing] = []
    first, last = np.log(setting.depths)
    ratios = np.exp(np.linspace(float(first), float(last), len(made)))
    for thing, ratio in zip(made, sorted(ratios, key=lambda r: abs(math.log(r))), strict=True):  # the subject first
        place = across - side * 0.5 * (ratio - 1) / ratio
        if not things or _clear(stand, thing, stand.subject_m * ratio, place, things, 9.0):
            things.append(_put(kit, stand, thing, stand.subject_m * float(ratio), place))
    return things


def _put(kit: Kit, stand: Stand, thing: Thing, depth: float, across: float) -> Thing:
    x, z = stand.spot(depth, across)
    return placed(thing, x, 0.0, z, kit.between(-40, 40), depth)


def _depths(things: list[Thing], far_m: float) -> list[float]:
    """Depths that matter to the choice of the aperture."""
    return [max(t.distance_m - t.footprint[2], 0.08) for t in things] + [t.distance_m for t in things] + [far_m, FAR_M]


def _focused(kit: Kit, stand: Stand, things: list[Thing], far_m: float, focus: str, threshold_px: float) -> Camera:
    """Choose what to focus on, then the f-number that blurs the rest as much as wanted."""
    depths = sorted(_depths(things, far_m)[:-1])
    subject = things[0]
    if focus in ("near", "far"):
        subject = (min if focus == "near" else max)(things, key=lambda t: t.distance_m)
    radius = max(_radius_m(subject), 0.02)
    focus_m = subject.distance_m - 0.5 * radius
    if focus == "backdrop":
        focus_m = far_m

    def camera(f_number: float) -> Camera:
        return Camera(
            focal_length_mm=stand.focal_length_mm, f_number=f_number, focus_distance_m=round(focus_m, 4),
            sensor_width_mm=stand.sensor_width_mm, height_px=stand.size[0], width_px=stand.size[1],
            camera_height_m=round(stand.height_m, 4), pitch_deg=round(stand.pitch_deg, 2),
        )  # fmt: skip

    widths = circle_of_confusion_px(depths, camera(1.0))
    scale = stand.size[1] / 480
    wanted = math.exp(kit.between(math.log(10), math.log(34))) * scale
    f_number = float(widths.max()) / wanted
    if focus == "all":
        f_number = max(8.0, float(widths.max()) / (0.8 * threshold_px))
    else:
        # As a photographer would have it: all of the subject's front is sharp.
        front = max(subject.distance_m - radius, 0.05), subject.distance_m + 0.2 * radius
        own = max(float(circle_of_confusion_px(z, camera(1.0))) for z in front)
        if focus != "backdrop":
            f_number = max(f_number, own / threshold_px)
    f_number = max(f_number, float(widths.max()) / (44 * scale))
    return camera(min(STOPS, key=lambda stop: abs(math.log(stop / max(f_number, 0.01)))))


def _radius_m(thing: Thing) -> float:
    """How far a thing that was set down reaches from its middle towards the camera."""
    return thing.footprint[1] - min(float(corners(part.shape)[:, 2].min()) for part in thing.parts)


def _behind(kit: Kit, setting: Setting, stand: Stand, view: View, far_m: float) -> tuple[list[Thing], bool]:
    """The backdrop and its lights, and whether it is night."""
    width = stand.width_m(far_m) * 1.15
    if kit.chance(0.16):
        lamps = lights(kit, view, far_m, width, brightness=kit.between(0.5, 1.6), count=int(kit.rng.integers(15, 60)))
        return [*night(kit, far_m, width), lamps], True
    choices = INDOORS if setting.indoors else OUTDOORS
    backdrop = choices[int(kit.rng.integers(len(choices)))]
    if kit.photographs.paths and kit.chance(0.35):
        backdrop = photograph
    things = backdrop(kit, far_m, width)
    if things[0].name in ("foliage", "meadow") and kit.chance(0.6):
        things.append(
            lights(kit, view, far_m, width, brightness=kit.between(0.15, 0.7), count=int(kit.rng.integers(10, 50)))
        )
    return things, False


def _ground(kit: Kit, setting: Setting, stand: Stand, things: list[Thing], far_m: float) -> list[Thing]:
    """The table, with the floor behind it, or the open ground."""
    painter = setting.grounds[int(kit.rng.integers(len(setting.grounds)))]
    gloss = kit.between(0.1, 0.5) if painter in (textures.marble, textures.terrazzo, textures.wood) else 0.0
    surface = kit.large(painter, kit.between(*setting.tile_m), gloss)
    last = max(thing.footprint[1] + 1.5 * thing.footprint[2] for thing in things)
    if not setting.indoors:
        return [_plane("ground", surface, far_m * 1.02, 0.0, 30 * stand.width_m(far_m), far_m)]
    if kit.chance(0.3):
        return [_plane("table", surface, far_m * 1.02, 0.0, 8 * stand.width_m(far_m), stand.subject_m)]
    edge = min(last * kit.between(1.03, 1.5), far_m * 0.98)
    floor = kit.large((textures.planks, textures.tiles, textures.cloth)[int(kit.rng.integers(3))], 1.2)
    below = _plane("floor", floor, far_m * 1.02, -0.74, 8 * stand.width_m(far_m), far_m)
    return [below, _plane("table", surface, edge, 0.0, kit.between(2.5, 8) * stand.width_m(stand.subject_m), edge)]


def _plane(name: str, material: Material, far_z: float, y: float, width: float, distance: float) -> Thing:
    """A level plane from below the camera to far_z."""
    near_z = 0.02
    shape = Quad((0.0, y, (near_z + far_z) / 2), (width, far_z - near_z), turned(0, 90))
    return Thing(name, [Part(shape, material)], distance, stands_at_m=y, catches_shadows=True)


def _light(kit: Kit, setting: Setting, dark: bool) -> Light:
    """Sun, overcast, a window, or lamps in the evening."""
    azimuth, elevation = math.radians(kit.between(20, 340)), math.radians(kit.between(25, 65))
    towards = np.array(
        [math.sin(azimuth) * math.cos(elevation), math.sin(elevation), -math.cos(azimuth) * math.cos(elevation)],
        np.float32,
    )
    warm = pick(kit.rng, "fff0dc", "ffe6c4", "fff6ec", "ffd9a8" if dark or setting.indoors else "fff2e0")
    cool = pick(kit.rng, "c4d4ea", "d5dde6", "dfe2e4")
    sunny = kit.chance(0.6)
    key = kit.between(1.2, 2.2) if sunny else kit.between(0.25, 0.7)
    ambient = kit.between(0.35, 0.6) if sunny else kit.between(0.8, 1.2)
    if dark:
        key, ambient = kit.between(0.5, 1.0), kit.between(0.12, 0.25)
    bounce = (0.5 * warm + 0.5 * kit.palette[0]) * np.float32(ambient * 0.5)
    softness = kit.between(0.5, 2.0) if sunny and not setting.indoors else kit.between(2.0, 6.0)
    dapple = None
    if sunny and not setting.indoors and kit.chance(0.4):
        leaves = field(kit.rng, LARGE, slope=1.6) + 0.3 * field(kit.rng, LARGE, slope=1.0)
        dapple = np.clip(0.5 + kit.between(0.8, 2.0) * leaves + kit.between(-0.2, 0.4), 0.15, 1).astype(np.float32)
    return Light(towards, warm * np.float32(key), cool * np.float32(ambient), bounce, softness, dapple)
