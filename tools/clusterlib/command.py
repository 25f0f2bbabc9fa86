"""The command line of tools/cluster."""

import argparse
import sys

from .cluster import Cluster, ClusterError

DESCRIPTION = """Tollhouse as separate processes on this machine, with mTLS on free loopback ports."""
EXAMPLES = """examples:
  tools/cluster up --dir ./cluster --edges 2 --enforcers 2 --ledgers 2
  export $(tools/cluster env --dir ./cluster)        # for tollctl
  tools/cluster kill --dir ./cluster ledger-1
  tools/cluster start --dir ./cluster ledger-1
  tools/cluster logs --dir ./cluster edge-0
  tools/cluster down --dir ./cluster
"""


def parse(argv):
    parser = argparse.ArgumentParser("tools/cluster", description=DESCRIPTION, epilog=EXAMPLES,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name, text=None, names=None):
        command = commands.add_parser(name, **({"help": text, "description": text} if text else {}))
        command.add_argument("--dir", required=True, metavar="D", help="where it lives")
        if names:
            command.add_argument("names", nargs=names, metavar="NAME", help="such as ledger-0")
        return command

    up = add("up", "start everything; returns when all are ready")
    for what in ("edges", "enforcers", "ledgers", "routers", "vaults"):
        up.add_argument("--" + what, type=int, default=1, metavar="N")
    up.add_argument("--redis", choices=("single", "replica", "cluster", "none"), default="single",
                    help="none: holds in the enforcer's memory")
    up.add_argument("--postgres", choices=("single", "standby", "none"), default="single",
                    help="standby: a synchronous one besides; none: SQLite")
    up.add_argument("--gates", action="store_true",
                    help="put a gate between every two processes; see the command gate")
    up.add_argument("--owner", type=int, metavar="PID", help="end it all when that process ends")
    add("down", "end every process")
    add("kill", "SIGKILL", "+")
    add("stop", "SIGTERM; returns when it has ended", "+")
    add("start", "start again on the same address", "+")
    add("pause", "SIGSTOP", "+")
    add("resume", "SIGCONT", "+")
    add("failover-postgres", "kill the primary, promote the standby, make a new standby")
    add("promote", "make a primary of a replica (redis-1) or a standby (postgres-standby)", "+")
    gate = add("gate", "what a gate does to the bytes between two processes")
    gate.add_argument("gate", metavar="GATE", help="such as 'edge-0>ledger-0'")
    gate.add_argument("mode", choices=("open", "delay", "hold", "deaf", "cut"))
    gate.add_argument("--ms", type=int, default=100, help="of delay (default 100)")
    add("status", "every process and whether it is ready")
    add("env", "NAME=VALUE lines for tollctl")
    logs = add("logs", "the end of a process's log", "+")
    logs.add_argument("-n", type=int, default=40, metavar="LINES")
    guard = add("guard")  # for the cluster itself
    guard.add_argument("--owner", type=int, required=True)
    return parser.parse_args(argv)


def run(options):
    cluster = Cluster(options.dir)
    if options.command == "guard":
        cluster.guard(options.owner)
    elif options.command == "status":
        for name, state, ready in cluster.status():
            print("%-12s %-8s %s" % (name, state, ready))
    elif options.command == "env":
        for item in cluster.env.items():
            print("%s=%s" % item)
    elif options.command == "gate":
        cluster.gate(options.gate, options.mode, options.ms)
    elif options.command == "logs":
        for name in options.names:
            print("\n".join(cluster.log(name).read_text(errors="replace").splitlines()[-options.n:]))
    elif options.command == "up":
        with cluster.locked():
            cluster.up(options.edges, options.enforcers, options.ledgers, options.routers,
                       options.vaults, options.redis, options.postgres, options.gates,
                       owner=options.owner)
        print("up: %s\n%s has addresses and pids" % (", ".join(cluster.edges), cluster.file))
    elif options.command == "down":
        with cluster.locked():
            cluster.down()
    elif options.command == "failover-postgres":
        with cluster.locked():
            cluster.failover_postgres()
    else:
        with cluster.locked():
            for name in options.names:
                getattr(cluster, options.command)(name)


def main():
    try:
        run(parse(sys.argv[1:]))
    except ClusterError as error:
        print("tools/cluster: %s" % error, file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
