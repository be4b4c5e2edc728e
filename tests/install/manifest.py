"""Prints deploy/manifest.yaml: the chart without variables, and a namespace that may have host paths."""

import yaml
from conftest import render

NAMESPACE = {
    "apiVersion": "v1",
    "kind": "Namespace",
    "metadata": {
        "name": "simple-device-plugin",
        "labels": {"pod-security.kubernetes.io/enforce": "privileged"},
    },
}


def without_helm(each):
    for labels in [each["metadata"]["labels"]]:
        labels["app.kubernetes.io/managed-by"] = "kubectl"
        labels.pop("helm.sh/chart")
    return each


def manifest():
    objects, _ = render({"resources": []}, namespace="simple-device-plugin")
    header = "# Rendered from the chart by `make manifest`.\n"
    objects = [NAMESPACE, *map(without_helm, objects)]
    return header + yaml.safe_dump_all(objects, sort_keys=False, width=120)


if __name__ == "__main__":
    print(manifest(), end="")
