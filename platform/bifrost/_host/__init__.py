"""The process side of the worker: template, child, index. Workflow files never import from here."""
