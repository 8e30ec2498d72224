"""Command line: `python -m e2e.clusters COMMAND …`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .base import Cluster, ClusterError
from .debian import unpacked
from .select import select
from .toolchain import NAMES, binary


def main(arguments: list[str]) -> int:
    """Carry out one command; a ClusterError becomes a message and exit code 1."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "binary":
            print(binary(options.name))
        elif options.command == "unpack":
            print(unpacked(options.package))
        else:
            _carry_out(select(), options)
    except ClusterError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    return 0


def _carry_out(cluster: Cluster, options: argparse.Namespace) -> None:
    match options.command:
        case "up":
            cluster.up()
            print(cluster.kubeconfig)
        case "down":
            cluster.down()
        case "status":
            print(cluster.status())
        case "kubeconfig":
            print(cluster.kubeconfig)
        case "nodes":
            print("\n".join(cluster.nodes()))
        case "load-image":
            cluster.load_images(options.images)
        case "build-image":
            pairs = dict(pair.partition("=")[::2] for pair in options.build_arg)
            cluster.build_image(options.dockerfile, options.context, options.tag, pairs)
        case "set-extended-resource":
            cluster.set_extended_resource(options.node, options.resource, options.count)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m e2e.clusters", description="The cluster that tests and the demo use."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="bring the cluster up, and print its kubeconfig; does nothing to a healthy one")
    commands.add_parser("down", help="remove everything that up made")
    commands.add_parser("status", help="say what runs")
    commands.add_parser("kubeconfig", help="print the path of the administrator's kubeconfig")
    commands.add_parser("nodes", help="print the names of the nodes, one per line")
    load = commands.add_parser("load-image", help="make built images usable on every node")
    load.add_argument("images", nargs="+", metavar="NAME")
    build = commands.add_parser("build-image", help="build an image on this machine")
    build.add_argument("dockerfile", type=Path)
    build.add_argument("context", type=Path)
    build.add_argument("tag")
    build.add_argument("--build-arg", action="append", default=[], metavar="KEY=VALUE")
    fake = commands.add_parser("set-extended-resource", help="let a node advertise a resource such as nvidia.com/gpu")
    fake.add_argument("node")
    fake.add_argument("resource")
    fake.add_argument("count", type=int)
    program = commands.add_parser("binary", help="print the path of an upstream program, building it where needed")
    program.add_argument("name", choices=NAMES)
    package = commands.add_parser("unpack", help="print where a Debian package lies unpacked, fetching it where needed")
    package.add_argument("package")
    return parser


sys.exit(main(sys.argv[1:]))
