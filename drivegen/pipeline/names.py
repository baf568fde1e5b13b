"""What a generation's options name: plugins, and LoRAs and tuners where a range or a region is meant."""

from __future__ import annotations

from collections.abc import Mapping

from drivegen.host.confined import Reach, check_confined
from drivegen.host.host import Host
from drivegen.pipeline.settings import GenerationSettings
from drivegen.sampling import check_region
from drivegen.support.errors import InputError, nearest


def check_names(host: Host, settings: GenerationSettings, reaches: Mapping[str, Reach]) -> None:
    """Raise InputError for a name that nothing has, and for a range or region that cannot be held.

    Args:
        host: whose plugins may be named.
        settings: the options.
        reaches: what each LoRA and tuner changes, by name.
    """
    s = settings
    for name in (*(s.scales or {}), *s.without, *(s.inputs or {})):
        if name in reaches and name not in host.plugins:
            raise InputError(
                f"{name!r} is a LoRA or tuner, and a scale of those is given where it is loaded (--lora FILE=SCALE); "
                "what may be said of it here is a range or a region"
            )
        host.plugin(name)
    for name in dict.fromkeys((*(s.ranges or {}), *(s.regions or {}))):
        region = name in (s.regions or {})
        if name in host.plugins and name in reaches:
            raise InputError(f"there are a plugin and a LoRA or tuner named {name!r}; load that under another name")
        if name in host.plugins:
            if region:
                check_region(host, name)
        elif name in reaches:
            check_confined(host.backbone.unet, name, reaches[name], region)
        else:
            known = (*host.plugins, *reaches)
            has = f"it has {', '.join(known) or 'none'}{nearest(name, known)}"
            raise InputError(f"there is no plugin {name!r} in this model, and no LoRA or tuner of that name; {has}")
