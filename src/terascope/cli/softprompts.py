"""`terascope softprompts`."""

from terascope.cli.artefacts import artefact_app

app = artefact_app("softprompt", "Soft prompts: vectors of a project that stand before a prompt.")
