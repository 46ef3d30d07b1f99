"""`terascope projectors`."""

from terascope.cli.artefacts import artefact_app

app = artefact_app("projector", "Projectors: small networks from a project's own vectors to a model's.")
