"""Which layer an alias means: ``CHANNEL_LAYERS``, through Channels' own registry, or our database layer."""

from __future__ import annotations

from inspect import signature
from typing import Any

from channels.exceptions import InvalidChannelLayerError
from channels.layers import channel_layers
from django.conf import settings as django_settings
from django.core.signals import setting_changed
from django.dispatch import receiver
from django.utils.module_loading import import_string

from ..conf import settings
from ..errors import InvalidSettings
from ..namespace import current
from ..options import Mistakes
from .layer import DurableLayer

_built_in: DurableLayer | None = None
_known: dict[str | None, tuple[str, Any, DurableLayer]] = {}
"""What ``get_layer`` found, by its argument: the alias, Channels' entry, the layer. Each send asks."""


def default_alias() -> str:
    """The alias used where none is named."""
    return settings.layer


def durable_aliases() -> list[str]:
    """The aliases whose layers have the durable verbs; the others are left to Channels."""
    aliases, wrong = read_layers()
    mistakes = Mistakes(InvalidSettings)
    for error in wrong.values():
        mistakes.add(error)
    mistakes.raise_any(InvalidSettings)
    return aliases


def read_layers() -> tuple[list[str], dict[str, InvalidSettings]]:
    """Return the aliases whose layers have the durable verbs, and what is wrong with those that cannot be built.

    Raises ``InvalidSettings`` where ``CHANNEL_LAYERS`` is no dictionary.
    """
    configured, wrong = _read()
    if not configured:
        return ["default"], {}
    durable = []
    for alias in configured.keys() - wrong.keys():
        try:
            if isinstance(_from_channels(alias, configured), DurableLayer):
                durable.append(alias)
        except InvalidSettings as error:
            wrong[alias] = error
    places = list(configured)
    return sorted(durable, key=places.index), {alias: wrong[alias] for alias in places if alias in wrong}


def unbuilt_routing(alias: str) -> tuple[str | None, bool] | None:
    """Return the routing of a layer that cannot be built, for checks: its path, and whether it has atomic consumers.

    ``None`` where its entry names none that can be read, and its class is not known to have the durable verbs.
    """
    entry = _read()[0][alias]
    config = entry.get("CONFIG") or {} if isinstance(entry, dict) else None
    if not isinstance(config, dict):
        return None
    try:
        layer = import_string(entry["BACKEND"])
    except Exception:  # a module may raise anything; whoever builds the layer tells
        layer = None
    is_durable = isinstance(layer, type) and issubclass(layer, DurableLayer)
    path = config.get("routing")
    if not isinstance(path, str) and (path is not None or not is_durable):
        return None
    return path, layer.supports_atomic if is_durable else True


def get_layer(alias: str | None = None) -> DurableLayer:
    """Return the layer of this alias: one instance per process, shared by all threads.

    Raises ``InvalidSettings`` when there is none, when it cannot be built, or when it has no durable verbs.
    """
    known = _known.get(alias)
    if known is not None and channel_layers.backends.get(known[0]) is known[1]:
        return known[2]
    name = alias or default_alias()
    layer = _look_up(name)
    _known[alias] = (name, channel_layers.backends.get(name), layer)
    return layer


def _look_up(alias: str) -> DurableLayer:
    configured, wrong = _read()
    if not configured and alias == "default":
        return _default_layer()
    if alias in wrong:
        raise wrong[alias]
    layer = _from_channels(alias, configured)
    if not isinstance(layer, DurableLayer):
        instead = '"mailrail.layers.DatabaseChannelLayer" (it serves groups within a process, too)'
        if type(layer).__module__.startswith("channels_redis."):
            instead = '"mailrail.layers.RedisChannelLayer", which takes the same CONFIG'
        raise InvalidSettings(
            f"CHANNEL_LAYERS[{alias!r}] is {type(layer).__module__}.{type(layer).__qualname__}, which cannot keep "
            f'messages for named channels. Write "BACKEND": {instead}, or give Mailrail an alias of its own and name '
            'it in MAILRAIL["LAYER"].'
        )
    return layer


def _default_layer() -> DurableLayer:
    global _built_in
    if _built_in is None:
        from .database import DatabaseChannelLayer

        _built_in = DatabaseChannelLayer()
    return _built_in


def _read() -> tuple[dict[str, Any], dict[str, InvalidSettings]]:
    """Return ``CHANNEL_LAYERS``, and what is wrong with those of its entries that are none."""
    configured = getattr(django_settings, "CHANNEL_LAYERS", None) or {}
    example = '{"default": {"BACKEND": "mailrail.layers.DatabaseChannelLayer", "CONFIG": {…}}}'
    if not isinstance(configured, dict):
        raise InvalidSettings(f"CHANNEL_LAYERS must be a dictionary such as {example}, not {configured!r}.")
    wrong = {}
    for alias, entry in configured.items():
        where = f"CHANNEL_LAYERS[{alias!r}]"
        if not isinstance(entry, dict):
            wrong[alias] = InvalidSettings(f"{where} must be a dictionary, not {entry!r}. Write {example}.")
        elif not isinstance(entry.get("CONFIG", {}), dict):
            config = entry["CONFIG"]
            wrong[alias] = InvalidSettings(f"{where}['CONFIG'] must be a dictionary, not {config!r}.")
    return configured, wrong


def _from_channels(alias: str, configured: dict[str, Any]) -> Any:
    if alias not in configured:
        known = ", ".join(map(repr, configured)) or "none"
        raise InvalidSettings(f"CHANNEL_LAYERS has no layer {alias!r} (it has: {known}).")
    try:
        return channel_layers[alias]
    except InvalidChannelLayerError as error:
        if "ROUTING" in configured[alias]:
            raise InvalidSettings(
                f'CHANNEL_LAYERS[{alias!r}]: "ROUTING" stands one level too high. Channels 4 refuses it there; '
                'move it into "CONFIG": {"routing": …}.'
            ) from error
        raise InvalidSettings(f"CHANNEL_LAYERS[{alias!r}]: {error}") from error
    except (TypeError, InvalidSettings) as error:
        raise _misfit(f"CHANNEL_LAYERS[{alias!r}]['CONFIG']", configured[alias], error) from error


def _misfit(where: str, configured: dict[str, Any], error: Exception) -> InvalidSettings:
    """What is wrong with a ``CONFIG``: options that the layer does not know, and what it says of the others.

    Python names the class that refused an option, which is a part of the layer.
    """
    layer, config = import_string(configured["BACKEND"]), configured.get("CONFIG") or {}
    known = {
        name
        for part in layer.__mro__
        for name, parameter in signature(part.__init__).parameters.items()
        if name != "self" and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    mistakes = []
    if unknown := [name for name in config if name not in known]:
        names = ", ".join(map(repr, unknown))
        mistakes.append(f"{where} has no option {names}; {layer.__name__} knows {', '.join(sorted(known))}.")
    try:
        layer(**{name: value for name, value in config.items() if name in known})
    except InvalidSettings as said:
        mistakes += said.mistakes
    except TypeError as said:
        mistakes.append(f"{where} does not fit its layer: {said}.")
    return InvalidSettings(*mistakes or [f"{where} does not fit its layer: {error}."])


@receiver(setting_changed, dispatch_uid="mailrail.layers.registry")
def _forget(*, setting: str, **kwargs: Any) -> None:
    global _built_in
    if setting in ("CHANNEL_LAYERS", "DATABASES", "MAILRAIL"):
        _known.clear()
    if setting in ("CHANNEL_LAYERS", "DATABASES"):
        _built_in = None
    elif setting == "MAILRAIL":
        for alias, layer in list(channel_layers.backends.items()):
            if isinstance(layer, DurableLayer) and _is_of_another_namespace(layer):
                del channel_layers.backends[alias]
        if _built_in is not None and _is_of_another_namespace(_built_in):
            _built_in = None


def _is_of_another_namespace(layer: DurableLayer) -> bool:
    try:
        return layer.namespace != current()
    except InvalidSettings:
        return False  # whoever uses the settings tells
