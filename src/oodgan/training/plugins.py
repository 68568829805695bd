"""Registration of custom launchers and sweepers in Hydra's plugin namespace."""

from __future__ import annotations

import sys
import types


def register_plugin(name: str, plugin: type) -> None:
    """Make a launcher or sweeper known to Hydra as `hydra_plugins.<name>.<its class's name>`."""
    import hydra_plugins
    from hydra.core.plugins import Plugins

    full = f"hydra_plugins.{name}"
    if full in sys.modules:
        return
    module = types.ModuleType(full)
    known = type(plugin.__name__, (plugin,), {"__module__": full})
    setattr(module, plugin.__name__, known)
    sys.modules[full] = module
    setattr(hydra_plugins, name, module)
    Plugins.instance().register(known)
