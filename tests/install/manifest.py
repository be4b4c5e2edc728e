"""Prints deploy/manifest.yaml, which is the chart rendered without variables and the test pod."""

import yaml
from conftest import render


def without_helm_labels(manifest_object):
    labels = manifest_object["metadata"]["labels"]
    labels["app.kubernetes.io/managed-by"] = "kubectl"
    labels.pop("helm.sh/chart")
    return manifest_object


def manifest():
    objects, _ = render({"test": {"enabled": False}}, namespace="simple-device-plugin")
    header = "# Rendered from the chart by `make manifest`.\n"
    return header + yaml.safe_dump_all(map(without_helm_labels, objects), sort_keys=False, width=120)


if __name__ == "__main__":
    print(manifest(), end="")
