#!/usr/bin/env python3
"""Checks rendered manifests: `kubernetes.py MANIFEST… [--crds FILE…]`.

Validates each resource against the schemas of four Kubernetes versions, or against its CRD, and each pod against the
policy below. Then breaks each workload in each way and requires that the policy reports it.
"""
import argparse
import copy
import pathlib
import re
import sys

import jsonschema
import kubernetes_validate
import yaml

VERSIONS = ["1.34", "1.35", "1.36", "1.37"]
ROOT = pathlib.Path(__file__).resolve().parents[2]
# Every setting that a service reads. The services ignore other variables, so a misspelled one has no effect.
PAGES = [(ROOT / page).read_text() for page in ("README.md", "docs/telemetry.md")]
SETTINGS = {name for page in PAGES for name in re.findall(r"`([A-Z][A-Z_]+)`", page)}
# The configurations of collectors and Jaeger, and the variables that each reads, with whether it has no default.
CONFIGS = {
    path.name: dict(re.findall(r"\$\{env:(\w+)(:-|\})", path.read_text())) for path in (ROOT / "deploy/collector/config").glob("*.yaml")
}
# Variables that collectors and Jaeger read without their configuration.
RUNTIME = {"GOMEMLIMIT", "OTEL_TRACES_SAMPLER", "NODE_NAME"}
WORKLOADS = ("DaemonSet", "Deployment", "StatefulSet")


def strict(schema):
    """Rejects unknown fields, as a server-side apply does."""
    if isinstance(schema, dict):
        if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
        for name, value in schema.items():
            for child in value.values() if name == "properties" else [value]:
                strict(child)
    return schema


def crd_schemas(files):
    """Returns the schema of each served version of each CRD."""
    schemas = {}
    for crd in (crd for file in files for crd in yaml.safe_load_all(pathlib.Path(file).read_text())):
        for version in crd["spec"]["versions"]:
            schema = version["schema"]["openAPIV3Schema"]
            schema["properties"]["metadata"] = {}
            key = f"{crd['spec']['group']}/{version['name']}", crd["spec"]["names"]["kind"]
            schemas[key] = strict(schema)
    return schemas


def schema_errors(resource, crds):
    """Yields the fields that the API server rejects."""
    schema = crds.get((resource["apiVersion"], resource["kind"]))
    if schema:
        yield from (f"{error.json_path}: {error.message}" for error in jsonschema.Draft7Validator(schema).iter_errors(resource))
        return
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(resource, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"Kubernetes {version}: {error.message}"


def at(value, path):
    """Returns the value at a dotted path, or None."""
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


# The values that a pod and each of its containers must have. `...` is any value.
POD = {
    "automountServiceAccountToken": False,
    "enableServiceLinks": False,
    "terminationGracePeriodSeconds": ...,
    "securityContext.runAsNonRoot": True,
    "securityContext.runAsUser": ...,
    "securityContext.seccompProfile.type": "RuntimeDefault",
}
SPREAD = {"topologySpreadConstraints": ...}
# A pod with a service account of its name may call the API server.
TOKEN = {"automountServiceAccountToken": True, "serviceAccountName": ...}
CONTAINER = {
    "image": ...,
    "livenessProbe.httpGet.path": ...,
    "readinessProbe.httpGet.path": ...,
    "resources.requests.cpu": ...,
    "resources.requests.memory": ...,
    "resources.limits.cpu": ...,
    "resources.limits.memory": ...,
    "securityContext.allowPrivilegeEscalation": False,
    "securityContext.readOnlyRootFilesystem": True,
    "securityContext.capabilities.drop": ["ALL"],
}


SERVICE = {"livenessProbe.httpGet.path": "/livez", "readinessProbe.httpGet.path": "/readyz"}


def required(workload, settings):
    """Returns what the pod and each container of a workload must have."""
    pod = POD | ({} if workload["kind"] == "DaemonSet" else SPREAD)
    if "serviceAccountName" in workload["spec"]["template"]["spec"]:
        pod |= TOKEN
    return pod, CONTAINER | (SERVICE if is_service(settings) else {})


def is_service(settings):
    """Returns whether the pod is that of a service, and not that of a collector."""
    return "DRAIN_DELAY_MS" in settings


def policy_errors(workload, settings):
    """Yields the violations of the policy."""
    pod = workload["spec"]["template"]["spec"]
    of_pod, of_container = required(workload, settings)
    for where, paths in [(pod, of_pod), *((container, of_container) for container in pod["containers"])]:
        for path, expected in paths.items():
            value = at(where, path)
            if value is None or expected not in (..., value):
                yield f"{path} is {value}"
    if at(pod, "securityContext.runAsUser") == 0:
        yield "securityContext.runAsUser is root"
    for container in pod["containers"]:
        tag = (container.get("image") or "").rpartition("/")[2].partition(":")[2]
        if tag in ("", "latest"):
            yield f"image {container.get('image')} has no fixed tag"
        names = settings.keys() | {env["name"] for env in container.get("env", [])}
        yield from (service_errors if is_service(settings) else config_errors)(pod, container, settings, names)


def service_errors(pod, container, settings, names):
    """Yields misspelled settings, and a shutdown that does not fit."""
    names -= {env["name"] for env in container["env"] if "valueFrom" in env}
    yield from (f"unknown setting {name}" for name in sorted(names - SETTINGS))
    delay, timeout = int(settings["DRAIN_DELAY_MS"]), int(settings["SHUTDOWN_TIMEOUT_MS"])
    if delay > timeout / 2 or timeout >= 1000 * pod.get("terminationGracePeriodSeconds", 0):
        yield f"a drain of {delay} of {timeout} ms does not fit terminationGracePeriodSeconds"


def config_errors(_, container, __, names):
    """Yields configurations that do not exist, and variables that they read but the pod does not set, or the reverse."""
    files = [arg.rpartition("/")[2] for arg in container.get("args", []) if arg.startswith("--config=")]
    yield from (f"no configuration {file}" for file in files if file not in CONFIGS)
    needed = {name for file in files for name, end in CONFIGS.get(file, {}).items() if end == "}"}
    yield from (f"unset variable {name}" for name in sorted(needed - names))
    yield from (f"unknown variable {name}" for name in sorted(names - {n for c in CONFIGS.values() for n in c} - RUNTIME))


# What a service needs whose clients are strangers.
EXPOSED = ["PUBLIC_ENDPOINT", "TRUSTED_PROXIES"]


def exposure_errors(workload, resources):
    """Yields the settings that a service lacks to which a Gateway sends requests. It has the name of its workload."""
    rules = [rule for r in resources if r["kind"] == "HTTPRoute" for rule in r["spec"]["rules"]]
    if workload["metadata"]["name"] in {backend["name"] for rule in rules for backend in rule["backendRefs"]}:
        env = {env["name"] for env in workload["spec"]["template"]["spec"]["containers"][0].get("env", [])}
        yield from (f"exposed without {name}" for name in EXPOSED if name not in env)


def exposure_mutations(workload, resources):
    """Yields a name, and a workload that is exposed without a setting."""
    for name in EXPOSED:
        copied = copy.deepcopy(workload)
        container = copied["spec"]["template"]["spec"]["containers"][0]
        present = container.get("env", [])
        container["env"] = [env for env in present if env["name"] != name]
        if len(container["env"]) < len(present):
            yield f"exposed without {name}", copied, resources


def mutations(workload, settings):
    """Yields a name, and a workload and settings that violate the policy."""

    def broken():
        copied = copy.deepcopy(workload)
        pod = copied["spec"]["template"]["spec"]
        return copied, pod, pod["containers"][0]

    of_pod, of_container = required(workload, settings)
    for is_pod, paths in ((True, of_pod), (False, of_container)):
        for path in paths:
            copied, pod, container = broken()
            *parents, last = path.split(".")
            target = pod if is_pod else container
            for key in parents:
                target = target[key]
            del target[last]
            yield f"no {path}", copied, settings
    for path, value in [("image", "a.example:5000/b"), ("image", "b:latest"), ("runAsUser", 0)]:
        copied, pod, container = broken()
        (container if path == "image" else pod["securityContext"])[path] = value
        yield f"{path} {value}", copied, settings
    if is_service(settings):
        yield "shutdown longer than the grace period", workload, settings | {"SHUTDOWN_TIMEOUT_MS": "60000"}
        yield "misspelled setting", workload, settings | {"LOG_FORMATS": "json"}
        yield "delay as long as the shutdown", workload, settings | {"DRAIN_DELAY_MS": settings["SHUTDOWN_TIMEOUT_MS"]}
        return
    yield "misspelled variable", workload, settings | {"GATEWAY": "[a:4317]"}
    copied, _, container = broken()
    container["env"] = [env for env in container["env"] if env["name"] != "POD_IP"]
    yield "no POD_IP", copied, settings
    copied, _, container = broken()
    container["args"] = ["--config=/etc/collector/nodes.yaml"]
    yield "misspelled configuration", copied, settings


def settings_of(workload, resources):
    """Returns the variables that a workload takes from ConfigMaps."""
    data = {r["metadata"]["name"]: r["data"] for r in resources if r["kind"] == "ConfigMap"}
    sources = workload["spec"]["template"]["spec"]["containers"][0].get("envFrom", [])
    return {name: value for source in sources for name, value in data[source["configMapRef"]["name"]].items()}


def check(file, crds):
    """Prints the errors of a rendered file and returns their number."""
    resources = list(yaml.safe_load_all(pathlib.Path(file).read_text()))
    errors, unchecked, broken = [], set(), 0
    for resource in resources:
        name = f"{resource['kind']} {resource['metadata']['name']}"
        try:
            errors += [f"{name}: {error}" for error in schema_errors(resource, crds)]
        except kubernetes_validate.SchemaNotFoundError:
            unchecked.add(resource["kind"])
        if resource["kind"] in WORKLOADS:
            settings = settings_of(resource, resources)
            for policy, changes, context in [
                (policy_errors, mutations, settings),
                (exposure_errors, exposure_mutations, resources),
            ]:
                errors += [f"{name}: {error}" for error in policy(resource, context)]
                for mutation, *changed in changes(resource, context):
                    broken += 1
                    if not list(policy(*changed)):
                        errors.append(f"{name}: the policy accepts: {mutation}")
    note = f", no schema for {', '.join(sorted(unchecked))}" if unchecked else ""
    print("\n".join([f"{pathlib.Path(file).stem}: {len(resources)} resources, {broken} mutations{note}", *errors]))
    return len(errors)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifests", nargs="+")
    parser.add_argument("--crds", nargs="*", default=[])
    args = parser.parse_args()
    crds = crd_schemas(args.crds)
    return any([check(file, crds) for file in args.manifests])


sys.exit(main())
