"""Prints deploy/manifest.yaml: the chart without variables."""

import yaml
from conftest import render


def without_helm(each):
    labels = each["metadata"]["labels"]
    labels["app.kubernetes.io/managed-by"] = "kubectl"
    labels.pop("helm.sh/chart")
    return each


def manifest():
    objects, _ = render({"resources": []}, namespace="simple-device-plugin")
    header = "# Rendered from the chart by `make manifest`.\n"
    return header + yaml.safe_dump_all(map(without_helm, objects), sort_keys=False, width=120)


if __name__ == "__main__":
    print(manifest(), end="")
