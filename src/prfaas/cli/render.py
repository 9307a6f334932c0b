"""``prfaas render kubernetes|systemd``: a deployment file as the files of those who run it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from prfaas.core.deployment import load_deployment
from prfaas.core.errors import ConfigError
from prfaas.core.units import format_count
from prfaas.render import kubernetes, systemd
from prfaas.render.options import Images
from prfaas.render.otherwise import otherwise
from prfaas.render.sites import parse_site

_ENDS = """
Files of these names are overwritten, others stay. Exit status: 0, or 2 where the file cannot be
rendered, with the reason.
"""
KUBERNETES = f"""
examples:
  prfaas render kubernetes deployment.yaml --out k8s            one Kubernetes cluster, or kind
  prfaas render kubernetes deployment.yaml --out k8s \\
      --site east=kv.east.example.com,10.1.0.0/16 --site west=kv.west.example.com,10.2.0.0/16
{_ENDS}"""
SYSTEMD = f"""
examples:
  prfaas render systemd deployment.yaml --out units             a folder of units for each machine
{_ENDS}"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    pods = kinds.add_parser("kubernetes", help="Kustomize bases, one for each cluster")
    _both(pods, KUBERNETES)
    pods.add_argument(
        "--namespace",
        default="prfaas",
        metavar="NAME",
        help="what namespaces are called, or begin with (default: %(default)s)",
    )
    pods.add_argument(
        "--image",
        default=Images().base,
        metavar="NAME",
        help="the image of agents and gateways (default: %(default)s)",
    )
    pods.add_argument(
        "--engine-image",
        default=Images().engine,
        metavar="NAME",
        help="the image of engines (default: %(default)s)",
    )
    pods.add_argument(
        "--vllm",
        choices=("cpu", "gpu"),
        default="gpu",
        help="which build of vLLM that image has (default: %(default)s)",
    )
    pods.add_argument(
        "--site",
        action="append",
        default=[],
        metavar="CLUSTER=ZONE,CIDR[,CIDR]",
        help="a cluster that is a Kubernetes cluster of its own: where its pods' names are "
        "published, and the addresses that they have",
    )
    units = kinds.add_parser("systemd", help="units, a folder for each machine and for gateways")
    _both(units, SYSTEMD)
    units.add_argument(
        "--prefix",
        default="/opt/prfaas",
        metavar="DIR",
        help="where the machines have the virtual environment (default: %(default)s)",
    )
    units.add_argument(
        "--file",
        default="/etc/prfaas/deployment.yaml",
        metavar="PATH",
        help="where the machines have the deployment file (default: %(default)s)",
    )


def _both(parser: argparse.ArgumentParser, epilog: str) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = epilog
    parser.add_argument("deployment", type=Path, metavar="DEPLOYMENT.yaml", help="deployment file")
    parser.add_argument(
        "-o", "--out", "--output", type=Path, required=True, metavar="DIR", help="where to write"
    )


def run(args: argparse.Namespace) -> int:
    """Write the files."""
    deployment = load_deployment(args.deployment)
    if args.kind == "systemd":
        files = systemd.render(deployment, prefix=args.prefix, file=args.file)
    else:
        sites = dict(parse_site(text) for text in args.site)
        if len(sites) < len(args.site):
            raise ConfigError("--site is said twice of one cluster")
        images = Images(base=args.image, engine=args.engine_image, vllm=args.vllm)
        files = kubernetes.render(deployment, namespace=args.namespace, sites=sites, images=images)
        for note in otherwise(deployment):
            print(f"note: {note}", file=sys.stderr)
    for path, text in files.items():
        place = args.out / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    print(f"{format_count(len(files), 'file')} in {args.out}")
    return 0
