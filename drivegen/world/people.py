"""People: a figure of primitives, and where its joints are."""

from __future__ import annotations

from drivegen.world.look import DARK, Look
from drivegen.world.parts import BALL, CYLINDER, Builder

_SIDES = ("right", "left")


def person(
    b: Builder,
    look: Look,
    x: float,
    hip: float,
    top: float,
    lean: float,
    legs: tuple[tuple[float, float], ...],
    foot: float,
    w: float,
) -> None:
    """Add a figure, and its joints by name.

    Args:
        b: collects primitives and joints.
        look: draws the colours.
        x: where it stands or sits, forward in the object's frame, in metres.
        hip: height of the hip, as all heights from the middle of the object.
        top: height of the head's top.
        lean: how far the shoulders are ahead of the hip.
        legs: (forward, side) places of the feet.
        foot: height of the feet.
        w: half its width.
    """
    shirt, trousers = look.vivid(0.55), look.pick(((0.03, 0.04, 0.1), (0.05, 0.05, 0.05), (0.2, 0.15, 0.1), (0.15, 0.16, 0.18)))
    skin = look.pick(((0.55, 0.33, 0.22), (0.3, 0.16, 0.09), (0.62, 0.42, 0.3), (0.12, 0.06, 0.04)))
    head = min(0.13, w * 0.45)
    neck = top - 2 * head
    for forward, side in legs:
        knee = (x + forward * 0.45 + (0.06 if abs(forward) > 0.02 else 0.0), side, (hip + foot) / 2)
        b.beam((x, side * 0.8, hip), knee, (w * 0.24, w * 0.24), trousers, CYLINDER)
        b.beam(knee, (x + forward, side, foot), (w * 0.19, w * 0.19), trousers, CYLINDER)
        leg = {"hip": (x, side * 0.8, hip), "knee": knee, "ankle": (x + forward, side, foot)}
        b.joints |= {f"{_SIDES[side > 0]}_{name}": place for name, place in leg.items()}
    shoulder = (x + lean, 0.0, neck)
    b.beam((x, 0, hip - 0.06), shoulder, (w * 0.36, w * 0.62), shirt, BALL)
    b.put(BALL, (x + lean * 0.9, 0, neck - 0.12), (w * 0.36, w * 0.74, 0.14), shirt)
    for side in (1, -1):
        hand = (
            x + lean + (0.3 if lean > 0.12 else side * legs[0][0] * 0.5),
            side * w * 0.74,
            (hip + neck) / 2 - (0.0 if lean > 0.12 else 0.14),
        )
        upper = (x + lean, side * w * 0.72, neck - 0.1)
        b.beam(upper, hand, (w * 0.17, w * 0.17), shirt, CYLINDER)
        elbow = ((upper[0] + hand[0]) / 2, (upper[1] + hand[1]) / 2, (upper[2] + hand[2]) / 2)  # arms are straight
        arm = {"shoulder": upper, "elbow": elbow, "wrist": hand}
        b.joints |= {f"{_SIDES[side > 0]}_{name}": place for name, place in arm.items()}
    b.put(BALL, (x + lean * 1.15, 0, top - head), (head * 0.95, head * 0.85, head), skin)
    b.put(
        BALL,
        (x + lean * 1.15 - 0.02, 0, top - head * 0.8),
        (head * 0.95, head * 0.9, head * 0.8),
        look.pick((DARK, (0.12, 0.06, 0.02), (0.4, 0.3, 0.12))),
    )
    b.joints["nose"] = (x + lean * 1.15 + head * 0.95, 0.0, top - head)
    for side in (1, -1):
        b.joints[f"{_SIDES[side > 0]}_eye"] = (x + lean * 1.15 + head * 0.85, side * head * 0.3, top - head * 0.75)
        b.joints[f"{_SIDES[side > 0]}_ear"] = (x + lean * 1.15, side * head * 0.85, top - head)
